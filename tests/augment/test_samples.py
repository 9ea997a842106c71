"""The figure of training images shows four of each class, none of them altered."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt

from pneumonia.augment.samples import draw_samples
from pneumonia.core.dataset import Split
from pneumonia.core.params import PHANTOM_NOTICE


def make_train(views: int = 1, copies: int = 0) -> Split:
    """Return ten grey images of each class, white variants of each, and white altered copies."""
    labels = np.array([0, 1] * 10 + [1] * copies, np.uint8)
    augmented = np.arange(len(labels)) >= 20
    images = np.full((len(labels) * views, 16, 16), 255, np.uint8)
    images[::views][~augmented] = 100
    paths = np.array([f"train/{label}/{row}.png" for row, label in enumerate(labels)])
    order = np.argsort(~augmented, kind="stable")  # the copies first
    images = images.reshape(len(labels), views, 16, 16)[order].reshape(-1, 16, 16)
    return Split(images, labels[order], paths[order], augmented[order])


def test_the_samples_are_the_same_png_each_time(tmp_path: Path):
    for name in ("one", "two"):
        draw_samples(tmp_path / f"{name}.png", make_train(), PHANTOM_NOTICE)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert plt.get_fignums() == []


@pytest.mark.parametrize(("views", "copies"), [(1, 5), (3, 0), (3, 5)])
def test_neither_variants_nor_altered_copies_are_shown_as_samples(tmp_path: Path, views: int, copies: int):
    for name, train in {"plain": make_train(), "altered": make_train(views, copies)}.items():
        draw_samples(tmp_path / f"{name}.png", train, "")
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "altered.png").read_bytes()
