"""Each figure is a PNG that depends on what it shows and on nothing else."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from PIL import Image

from pneumonia.core.params import PHANTOM_NOTICE
from pneumonia.evaluation.calibration import trace_reliability
from pneumonia.evaluation.examples import OUTCOMES
from pneumonia.evaluation.figures import (
    draw_confusion,
    draw_heatmaps,
    draw_learning_curves,
    draw_pairs,
    draw_precision_recall,
    draw_reliability,
    draw_roc,
)

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (3, 16, 16), dtype=np.uint8)
LABELS = np.array([0, 1, 0, 1, 1, 0], np.uint8)
MODELS = {"initial": RNG.random(6), "finetuned": RNG.random(6)}
HISTORY = pd.DataFrame(
    {"epoch": [1, 2]}
    | {f"{split}{name}": RNG.random(2) for split in ("", "val_") for name in ("loss", "auc", "f1", "accuracy")}
)


def write_history(figure: Path) -> Path:
    HISTORY.to_csv(path := figure.with_suffix(".csv"), index=False)
    return path


THRESHOLDS = {"initial": 0.5, "finetuned": 0.25}
HEATMAPS = RNG.random((3, 16, 16))
SHOWN = np.array(OUTCOMES)[[0, 3, 0]]
Draw = Callable[[Path, str], None]
FIGURES: dict[str, Draw] = {
    "learning curves": lambda path, notice: draw_learning_curves(
        path, write_history(path), write_history(path), notice
    ),
    "roc": lambda path, notice: draw_roc(path, LABELS, MODELS, notice),
    "precision and recall": lambda path, notice: draw_precision_recall(path, LABELS, MODELS, notice),
    "confusion": lambda path, notice: draw_confusion(path, LABELS, MODELS, THRESHOLDS, notice),
    "reliability": lambda path, notice: draw_reliability(
        path, {name: trace_reliability(LABELS, p) for name, p in MODELS.items()}, notice
    ),
    "heat maps": lambda path, notice: draw_heatmaps(
        path, IMAGES, HEATMAPS, ["a", "b", "$c"], SHOWN, OUTCOMES, "Heat maps", notice
    ),
    "pairs": lambda path, notice: draw_pairs(path, IMAGES, HEATMAPS, ["a", "b", "$c"], "Errors", notice),
}


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_a_figure_has_the_same_bytes_each_time_shows_its_notice_and_is_closed(tmp_path: Path, draw: Draw):
    for name, notice in {"one": PHANTOM_NOTICE, "two": PHANTOM_NOTICE, "without": ""}.items():
        draw(tmp_path / f"{name}.png", notice)
        assert plt.get_fignums() == []
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    noticed, without = (np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB")) for name in ("one", "without"))
    assert noticed.shape == without.shape
    assert not np.array_equal(noticed[-40:], without[-40:])


@pytest.mark.parametrize("name", ["roc", "precision and recall", "confusion", "reliability"])
def test_other_probabilities_give_another_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    FIGURES[name](tmp_path / "one.png", "")
    monkeypatch.setitem(MODELS, "finetuned", 1 - LABELS.astype(float))
    FIGURES[name](tmp_path / "two.png", "")
    assert (tmp_path / "one.png").read_bytes() != (tmp_path / "two.png").read_bytes()


def test_a_confusion_matrix_counts_at_each_models_threshold(tmp_path: Path):
    for threshold in (0.1, 0.9):
        draw_confusion(tmp_path / f"{threshold}.png", LABELS, MODELS, THRESHOLDS | {"initial": threshold}, "")
    assert (tmp_path / "0.1.png").read_bytes() != (tmp_path / "0.9.png").read_bytes()


def test_a_heat_map_tints_its_image_where_it_is_high_and_leaves_it_grey_where_it_is_0(tmp_path: Path):
    images, outcomes = np.full((1, 16, 16), 128, np.uint8), np.array(OUTCOMES[:1])
    shown = []
    for height in (0, 1):
        heatmaps = np.full((1, 16, 16), height)
        draw_heatmaps(tmp_path / "map.png", images, heatmaps, ["image"], outcomes, OUTCOMES[:1], "Maps", "")
        picture = plt.imread(tmp_path / "map.png")
        middle = picture.shape[0] // 2
        shown.append(picture[middle - 40 : middle + 40, 100:180, :3])
    plain, tinted = shown
    np.testing.assert_allclose(plain, 128 / 255, atol=0.01)
    assert (tinted[..., 0] - tinted[..., 2] > 0.1).all()  # the upper end of the scale is yellow


@pytest.mark.parametrize("outcomes", [OUTCOMES[:0], OUTCOMES[3:], OUTCOMES])
def test_an_outcome_without_images_keeps_its_row(tmp_path: Path, outcomes: tuple[str, ...]):
    images, heatmaps = np.zeros((len(outcomes), 16, 16), np.uint8), np.zeros((len(outcomes), 16, 16))
    captions = list(outcomes)
    draw_heatmaps(tmp_path / "map.png", images, heatmaps, captions, np.array(outcomes, str), OUTCOMES, "Maps", "")
    assert plt.imread(tmp_path / "map.png").shape[0] == 1150


def test_a_gallery_without_errors_is_drawn(tmp_path: Path):
    draw_pairs(tmp_path / "errors.png", IMAGES[:0], HEATMAPS[:0], [], "Errors", "")
    assert (tmp_path / "errors.png").stat().st_size > 1000
