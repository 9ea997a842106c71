"""Both figures show images of the training split itself, and say which of them are altered."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from pneumonia.augment.build import build_dataset
from pneumonia.augment.samples import ALTERED, ORIGINALS, draw_altered, draw_samples, find_altered
from pneumonia.core.dataset import Pixels, Split
from pneumonia.core.names import CLASSES
from pneumonia.core.params import PHANTOM_NOTICE, AugmentParams
from pneumonia.core.params_file import load_params

WAYS: list[tuple[Any, int]] = [("augment", 1), ("augment", 3), ("undersample", 1), ("class_weight", 3), ("none", 1)]
Shown = list[tuple[str, Pixels]]


@dataclass
class Drawn:
    """A training split and what both figures show of it."""

    balance: str
    train: Split
    samples: Shown
    altered: Shown
    title: str  # of the figure of altered images


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    raw = tmp_path_factory.mktemp("raw")
    noise = np.random.default_rng(0).integers(0, 256, (len(make_records()), 12, 12), np.uint8)
    for path, plane in zip(make_records()["path"], noise, strict=True):
        Image.fromarray(plane).save(raw / path)
    return raw


def make_records() -> pd.DataFrame:
    """Return 20 training images, 6 of them normal, and one of each class for val and for test."""
    splits = ["train"] * 20 + ["val"] * 2 + ["test"] * 2
    labels = [CLASSES[0]] * 6 + [CLASSES[1]] * 14 + [*CLASSES] * 2
    return pd.DataFrame({"path": [f"image{row}.png" for row in range(24)], "label": labels, "split": splits})


def build(raw: Path, balance: Any, views: int) -> Split:
    params = load_params().augment.model_dump() | {"balance": balance, "views": views}
    return build_dataset(make_records(), raw, 12, AugmentParams.model_validate(params)).train


def look(draw: Any, path: Path, train: Split) -> tuple[str, Shown]:
    """Draw a figure and return its title, and caption and image of each of its axes that shows one."""
    kept: list[Figure] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plt, "close", kept.append)
        draw(path, train, "")
    plt.close(kept[0])
    shown = [(axis.get_title(), np.asarray(axis.images[0].get_array())) for axis in kept[0].axes if axis.images]
    return kept[0].get_suptitle(), shown


@pytest.fixture(scope="module", params=WAYS, ids=lambda way: f"{way[0]}-{way[1]}")
def drawn(request: pytest.FixtureRequest, raw: Path) -> Drawn:
    balance, views = request.param
    train = build(raw, balance, views)
    title, altered = look(draw_altered, raw / "altered.png", train)
    return Drawn(balance, train, look(draw_samples, raw / "samples.png", train)[1], altered, title)


def is_in(image: Pixels, train: Split) -> bool:
    return bool((train.images == image).all(axis=(1, 2)).any())


def test_both_figures_show_images_of_the_split_only(drawn: Drawn):
    assert drawn.samples and drawn.altered
    assert all(is_in(image, drawn.train) for _, image in drawn.samples + drawn.altered)


def test_samples_are_four_unaltered_images_of_each_class(raw: Path, drawn: Drawn):
    assert [caption.split("\n")[0] for caption, _ in drawn.samples] == ["NORMAL"] * 4 + ["PNEUMONIA"] * 4
    assert all(is_in(image, build(raw, "none", 1)) for _, image in drawn.samples)


def test_altered_images_are_grouped_below_their_original(raw: Path, drawn: Drawn):
    train, unaltered = drawn.train, build(raw, "none", 1)
    originals = dict(zip(unaltered.paths, unaltered.images, strict=True))
    groups = find_altered(train)
    found = [number for group in groups for number in group[1:]]
    assert len(set(found)) == len(found) == len(train.images) - len(np.unique(train.paths))
    for first, *others in groups:
        path = train.paths[first // train.views]
        assert np.array_equal(train.images[first], originals[path])
        assert all(train.paths[number // train.views] == path for number in others)
        assert not any(np.array_equal(train.images[number], originals[path]) for number in others)


def test_the_title_says_which_altered_images_are_trained_on(drawn: Drawn):
    copies, views = drawn.balance == "augment", drawn.train.views
    assert ("8 altered copies balance the classes" in drawn.title) == copies
    assert (f"each image has {views} views" in drawn.title) == (views > 1)
    assert ("no altered image is trained on" in drawn.title) == (not copies and views == 1)
    assert any(caption != "original" for caption, _ in drawn.altered) == (copies or views > 1)


def test_the_figure_of_altered_images_is_bounded_however_many_there_are(raw: Path, tmp_path: Path):
    _, shown = look(draw_altered, tmp_path / "figure.png", build(raw, "augment", 9))
    assert len(shown) == ORIGINALS * (1 + ALTERED)


@pytest.mark.parametrize("draw", [draw_samples, draw_altered])
def test_a_figure_is_the_same_png_each_time(raw: Path, tmp_path: Path, draw: Any):
    for name in ("one", "two"):
        draw(tmp_path / f"{name}.png", build(raw, "augment", 2), PHANTOM_NOTICE)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert plt.get_fignums() == []
