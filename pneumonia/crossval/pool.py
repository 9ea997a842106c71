"""Decode every image once, with all variants that any fold trains on, and let folds pick theirs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd

from pneumonia.augment.balance import weigh_classes
from pneumonia.augment.build import arrange, read_split
from pneumonia.core.dataset import Dataset, Pixels, Split
from pneumonia.core.params import AugmentParams
from pneumonia.models.activations import ActivationCache, Rows


@dataclass(frozen=True)
class Pool:
    """All images of a cross-validation and the altered copies that balance its folds.

    A variant depends on its image's bytes, the number of the copy and the number of the view, never on a place in a
    fold. So what the frozen part says of it is computed once for all folds, and is found again with other folds.

    Attributes:
        split: the images as they are, then the copies.
        index: path and number of the copy, 0 for the image as it is, of each row of `split`.
        params: section augment.
    """

    split: Split
    index: pd.MultiIndex
    params: AugmentParams

    def pick(self, fold: pd.DataFrame) -> Dataset:
        """Return the data set of a fold, as `build_dataset` would: balanced and shuffled; pixels stay in the pool."""
        tables = arrange(fold, self.params)
        splits = {name: self._pick(table, all_views=name == "train") for name, table in tables.items()}
        return Dataset(**splits, class_weight=weigh_classes(tables["train"], self.params))

    def _pick(self, table: pd.DataFrame, all_views: bool) -> Split:
        rows = self.index.get_indexer(pd.MultiIndex.from_arrays([table["path"], _number_copies(table)]))
        shown = np.arange(self.split.views if all_views else 1)
        order = (rows[:, None] * self.split.views + shown).ravel()
        images = cast(Pixels, Rows(self.split.images, order))  # copied, they would take as much memory again
        return Split(images, self.split.labels[rows], self.split.paths[rows], self.split.augmented[rows])


def join(first: Any, second: Any) -> Rows:
    """Return the images of one part of a fold, then those of another."""
    return Rows(first.array, np.r_[first.order, second.order])


def build_pool(folds: Sequence[pd.DataFrame], raw: Path, size: int, params: AugmentParams) -> Pool:
    """Decode the images of folds and draw the variants that their training parts need.

    Args:
        folds: from `deal_folds`.
        raw: folder that paths start from.
        size: side of the decoded images in pixels.
        params: section augment.
    """
    trained = [arrange(fold, params)["train"] for fold in folds]
    numbered = pd.concat([table.assign(copy=_number_copies(table)) for table in trained])
    copies = numbered[numbered["copy"] > 0].drop_duplicates(["path", "copy"]).sort_values(["copy", "path"])
    table = pd.concat([folds[0].assign(copy=0, augmented=False), copies], ignore_index=True)
    keys = [int(f"{sha256}{copy:08x}", 16) for sha256, copy in zip(table["sha256"], table["copy"], strict=True)]
    split = read_split(table, raw, size, params, keys)
    return Pool(split, pd.MultiIndex.from_frame(table[["path", "copy"]]), params)


def _number_copies(table: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Return 0 for each image as it is, and from 1 on a number for each altered copy of an image."""
    numbers = np.zeros(len(table), np.int64)
    if "augmented" in table:
        altered = table["augmented"].to_numpy(bool)
        numbers[altered] = 1 + table[altered].groupby("path").cumcount()
    return numbers


@dataclass(frozen=True)
class PoolCache(ActivationCache):
    """A cache that has the activations of a whole pool computed for the first fold that asks; others look up rows."""

    found: dict[tuple[int, ...], tuple[Any, Rows]] = field(default_factory=dict)

    def read(self, frozen: Sequence[keras.Model], images: Pixels) -> Rows:
        """Return activations as `ActivationCache.read`; of images that `Pool.pick` picked, without hashing them."""
        if not isinstance(images, Rows):
            return super().read(frozen, images)
        key = (id(images.array), *map(id, frozen))  # what is named by its id is kept beside the rows
        if key not in self.found:
            self.found[key] = ((images.array, frozen), super().read(frozen, images.array))
        pool = self.found[key][1]
        return Rows(pool.array, pool.order[images.order])
