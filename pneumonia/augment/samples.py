"""Draw what the training split holds: images of both classes, and altered images below their originals."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pneumonia.core.dataset import Pixels, Split
from pneumonia.core.figure import caption, drawing
from pneumonia.core.names import CLASSES

SAMPLES = 4  # of each class
ORIGINALS, ALTERED = 5, 3  # columns, and at most so many rows below the originals


def draw_samples(path: Path, train: Split, notice: str) -> None:
    """Draw four training images of each class with their file names."""
    shown = [row for label in (0, 1) for row in np.flatnonzero((train.labels == label) & ~train.augmented)[:SAMPLES]]
    rows = -(-len(shown) // SAMPLES)
    with drawing(path, rows, SAMPLES, _size(rows, SAMPLES), "Training images", notice) as axes:
        _blank(axes)
        for axis, row in zip(axes.flat, shown, strict=False):
            name = caption(Path(str(train.paths[row])).name)
            _show(axis, train.images[row * train.views], f"{CLASSES[train.labels[row]]}\n{name}")


def draw_altered(path: Path, train: Split, notice: str) -> None:
    """Draw originals of the training split, and below each the altered images of it that a model trains on.

    Altered images are copies that balance the classes, and views beyond the first. The title says which there are; of a
    split without any it says so, above originals alone.
    """
    groups = find_altered(train)
    unaltered = [[row * train.views] for row in range(min(ORIGINALS, len(train.labels)))]
    shown = [group[: 1 + ALTERED] for group in groups[:ORIGINALS]] or unaltered
    rows = max(map(len, shown))
    with drawing(path, rows, ORIGINALS, _size(rows, ORIGINALS), _title(train), notice) as axes:
        _blank(axes)
        for column, group in zip(axes.T, shown, strict=False):
            for axis, number in zip(column, group, strict=False):
                _show(axis, train.images[number], _name_variant(train, number))


def find_altered(train: Split) -> list[list[int]]:
    """Return for each file with altered images the numbers of its images in `train.images`, the original first."""
    numbers = np.arange(len(train.images))
    altered = np.repeat(train.augmented, train.views) | (numbers % train.views > 0)
    files = pd.Series(numbers).groupby(np.repeat(train.paths, train.views), sort=False)
    groups = (group.to_numpy() for _, group in files)
    return [group[np.argsort(altered[group], kind="stable")].tolist() for group in groups if altered[group].any()]


def _title(train: Split) -> str:
    copies = int(train.augmented.sum())
    parts = [f"{copies:,} altered copies balance the classes"] if copies else []
    if train.views > 1:
        parts.append(f"each image has {train.views} views, one drawn per epoch")
    return f"Augmentation: {'; '.join(parts) or 'none, no altered image is trained on'}"


def _name_variant(train: Split, number: int) -> str:
    row, view = divmod(number, train.views)
    parts = ["altered copy"] * bool(train.augmented[row]) + [f"view {view + 1}"] * bool(view)
    return ", ".join(parts) or "original"


def _size(rows: int, columns: int) -> tuple[float, float]:
    return 2.5 * columns, 2.8 * rows + 0.6


def _blank(axes: Any) -> None:
    for axis in axes.flat:
        axis.set_axis_off()


def _show(axis: Any, image: Pixels, title: str) -> None:
    axis.imshow(image, cmap="gray", vmin=0, vmax=255)
    axis.set_title(title, fontsize="small")
