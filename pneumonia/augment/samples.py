"""Draw grids of training images and of their variants."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from pneumonia.augment.build import view_rng
from pneumonia.augment.views import draw_view
from pneumonia.core.dataset import Pixels, Split
from pneumonia.core.figure import drawing
from pneumonia.core.params import AugmentParams
from pneumonia.core.tables import CLASSES
from pneumonia.images.decode import read_image

COLUMNS, VARIANTS = 5, 3


def draw_samples(path: Path, train: Split, notice: str) -> None:
    """Draw four training images of each class with their names."""
    shown = _choose(train)
    names = [Path(path).name for path in train.paths[shown]]
    captions = [f"{CLASSES[c]}\n{name}" for c, name in zip(train.labels[shown], names, strict=True)]
    _draw_grid(path, train.images[shown * train.views], captions, "Training images", 4, notice)


def draw_variants(path: Path, train: Split, raw: Path, size: int, params: AugmentParams, notice: str) -> None:
    """Draw training images as they are, and below each some variants."""
    shown = _choose(train)[:COLUMNS]
    images = [read_image((raw / path).read_bytes(), params.presize or size) for path in train.paths[shown]]
    views = [
        [draw_view(f, size, view_rng(params, n, v), params) for n, f in enumerate(images)] for v in range(VARIANTS)
    ]
    grid = np.stack([*train.images[shown * train.views], *(view for row in views for view in row)])
    captions = ["as it is"] * len(images) + ["variant"] * len(images) * VARIANTS
    _draw_grid(path, grid, captions, "What augmentation does", COLUMNS, notice)


def _choose(train: Split) -> npt.NDArray[np.intp]:
    """Return the rows of four training images of each class, none of them an altered copy."""
    return np.concatenate([np.flatnonzero((train.labels == c) & ~train.augmented)[:4] for c in (0, 1)])


def _draw_grid(path: Path, images: Pixels, captions: list[str], title: str, columns: int, notice: str) -> None:
    """Draw images uint8 (n, side, side) row by row with a caption each."""
    rows = -(-len(images) // columns)
    with drawing(path, rows, columns, (2.5 * columns, 2.8 * rows + 0.6), title, notice) as axes:
        for axis in axes.flat:
            axis.set_axis_off()
        for axis, image, caption in zip(axes.flat, images, captions, strict=False):
            axis.imshow(image, cmap="gray", vmin=0, vmax=255)
            axis.set_title(caption, fontsize="small")
