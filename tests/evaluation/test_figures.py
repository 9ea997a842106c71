"""Each figure is a PNG that depends on what it shows and on nothing else."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from pneumonia.augment.samples import draw_images
from pneumonia.core.params import DataParams
from pneumonia.evaluation.figures import (
    draw_confusion,
    draw_heatmaps,
    draw_learning_curves,
    draw_precision_recall,
    draw_roc,
)
from pneumonia.evaluation.metrics import OUTCOMES
from pneumonia.experiments.figure import draw_comparison

NOTICE = DataParams(source="phantom", path=Path(), images=48, seed=1).notice
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (3, 16, 16), dtype=np.uint8)
LABELS = np.array([0, 1, 0, 1, 1, 0], np.uint8)
MODELS = {"initial": RNG.random(6), "finetuned": RNG.random(6)}
HISTORY = pd.DataFrame(
    {"epoch": [1, 2]}
    | {f"{split}{name}": RNG.random(2) for split in ("", "val_") for name in ("loss", "auc", "f1", "accuracy")}
)
COMPARED = pd.DataFrame(
    {"experiment": ["a", "b"], "split": ["patient", "original"], "roc_auc": [0.99, 0.95], "f1": [0.98, 0.93],
     "training_seconds": [200.0, np.nan], "parameters": [3_400_000, 25_000_000], "trainable": [1_100_000, 2_049]}
)  # fmt: skip
THRESHOLDS = {"initial": 0.5, "finetuned": 0.25}
HEATMAPS = RNG.random((3, 16, 16))
Draw = Callable[[Path, str], None]
FIGURES: dict[str, Draw] = {
    "images": lambda path, notice: draw_images(path, IMAGES, ["a", "b", "c"], "Images", 2, notice),
    "learning curves": lambda path, notice: draw_learning_curves(path, HISTORY, HISTORY, notice),
    "roc": lambda path, notice: draw_roc(path, LABELS, MODELS, notice),
    "precision and recall": lambda path, notice: draw_precision_recall(path, LABELS, MODELS, notice),
    "confusion": lambda path, notice: draw_confusion(path, LABELS, MODELS, THRESHOLDS, notice),
    "heat maps": lambda path, notice: draw_heatmaps(
        path, IMAGES, HEATMAPS, ["a", "b", "$c"], np.array(OUTCOMES)[[0, 3, 0]], OUTCOMES, "Heat maps", notice
    ),
    "comparison": lambda path, notice: draw_comparison(path, COMPARED, notice),
}
each_figure = pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)


@each_figure
def test_the_same_input_gives_the_same_bytes_of_a_png(tmp_path: Path, draw: Draw):
    draw(tmp_path / "one.png", NOTICE)
    draw(tmp_path / "two.png", NOTICE)
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


@each_figure
def test_the_notice_of_synthetic_images_is_in_the_picture(tmp_path: Path, draw: Draw):
    for notice in (NOTICE, ""):
        draw(tmp_path / f"{bool(notice)}.png", notice)
    with_notice, without = (plt.imread(tmp_path / f"{notice}.png") for notice in (True, False))
    red, green = with_notice[-40:, :, 0], with_notice[-40:, :, 1]
    assert np.any(red - green > 0.3)  # firebrick letters at the lower edge
    assert with_notice.shape == without.shape
    assert not np.array_equal(with_notice, without)


@each_figure
def test_no_figure_stays_open(tmp_path: Path, draw: Draw):
    draw(tmp_path / "figure.png", "")
    assert plt.get_fignums() == []


def test_a_figure_that_fails_is_closed_and_leaves_no_file(tmp_path: Path):
    with pytest.raises(ValueError):
        draw_roc(tmp_path / "roc.png", LABELS, {"short": np.zeros(2)}, "")
    assert plt.get_fignums() == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["roc", "precision and recall", "confusion"])
def test_other_probabilities_give_another_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    FIGURES[name](tmp_path / "one.png", "")
    monkeypatch.setitem(MODELS, "finetuned", 1 - LABELS.astype(float))
    FIGURES[name](tmp_path / "two.png", "")
    assert (tmp_path / "one.png").read_bytes() != (tmp_path / "two.png").read_bytes()


def test_each_models_threshold_decides_what_its_confusion_matrix_counts(tmp_path: Path):
    for threshold in (0.1, 0.9):
        draw_confusion(tmp_path / f"{threshold}.png", LABELS, MODELS, THRESHOLDS | {"initial": threshold}, "")
    assert (tmp_path / "0.1.png").read_bytes() != (tmp_path / "0.9.png").read_bytes()


def test_images_fill_as_many_rows_as_they_need(tmp_path: Path):
    for columns in (1, 3):
        draw_images(tmp_path / f"{columns}.png", IMAGES, ["a", "b", "c"], "Images", columns, "")
    tall, wide = (plt.imread(tmp_path / f"{columns}.png").shape for columns in (1, 3))
    assert tall[0] > tall[1]
    assert wide[0] < wide[1]


def test_a_heat_map_tints_its_image_where_it_is_high_and_leaves_it_grey_where_it_is_0(tmp_path: Path):
    images, outcomes = np.full((1, 16, 16), 128, np.uint8), np.array(OUTCOMES[:1])
    shown = []
    for height in (0, 1):
        draw_heatmaps(
            tmp_path / "map.png", images, np.full((1, 16, 16), height), ["image"], outcomes, OUTCOMES, "Maps", ""
        )
        picture = plt.imread(tmp_path / "map.png")
        shown.append(picture[150:250, 100:200, :3])
    plain, tinted = shown
    np.testing.assert_allclose(plain, 128 / 255, atol=0.01)
    assert (tinted[..., 0] - tinted[..., 2] > 0.1).all()  # the upper end of the scale is yellow


@pytest.mark.parametrize("outcomes", [OUTCOMES[:0], OUTCOMES[:1], OUTCOMES[3:], OUTCOMES])
def test_an_outcome_that_no_image_had_keeps_its_row(tmp_path: Path, outcomes: tuple[str, ...]):
    images, heatmaps = np.zeros((len(outcomes), 16, 16), np.uint8), np.zeros((len(outcomes), 16, 16))
    captions = list(outcomes)
    draw_heatmaps(tmp_path / "map.png", images, heatmaps, captions, np.array(outcomes, str), OUTCOMES, "Maps", "")
    assert plt.imread(tmp_path / "map.png").shape[0] == 1150
