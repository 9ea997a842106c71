"""Build the data set: balance the training split, decode every image once and draw its views."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from pneumonia.augment.balance import balance, weigh_classes
from pneumonia.augment.views import draw_view
from pneumonia.core.dataset import Dataset, Split
from pneumonia.core.names import CLASSES, SPLITS
from pneumonia.core.params import AugmentParams
from pneumonia.core.runtime import map_threads
from pneumonia.images.decode import read_image


def build_dataset(records: pd.DataFrame, raw: Path, size: int, params: AugmentParams) -> Dataset:
    """Decode all splits in shuffled order; only training is balanced and augmented.

    Args:
        records: images with their split, columns as in DTYPES and `split`.
        raw: folder that their paths start from.
        size: side of the decoded images in pixels.
        params: section `augment` of params.yaml.
    """
    tables = arrange(records, params)
    splits = {name: read_split(t, raw, size, params if name == "train" else None) for name, t in tables.items()}
    return Dataset(**splits, class_weight=weigh_classes(tables["train"], params))


def arrange(records: pd.DataFrame, params: AugmentParams) -> dict[str, pd.DataFrame]:
    """Return the images of each split in shuffled order, those of training balanced, see `balance`."""
    rng = np.random.default_rng(params.seed)
    tables = {name: records[records["split"] == name] for name in SPLITS}
    tables["train"] = balance(tables["train"], params)
    return {name: table.iloc[rng.permutation(len(table))] for name, table in tables.items()}


def read_split(
    records: pd.DataFrame, raw: Path, size: int, params: AugmentParams | None = None,
    keys: Sequence[int] | None = None,
) -> Split:  # fmt: skip
    """Decode images to squares of `size` pixels, in parallel.

    Args:
        records: images in order, with columns path and label; with `params` also `augmented`, see `balance`.
        raw: folder that their paths start from.
        size: side in pixels.
        params: number and ranges of views; without it each image is there once, unaltered.
        keys: a number for each row that its views depend on; the row's own by default.
    """
    views = params.views if params else 1
    augmented = records["augmented"].to_numpy() if params else np.zeros(len(records), bool)
    images = np.empty((len(records) * views, size, size), np.uint8)

    def decode(path: str, rows: npt.NDArray[np.int64]) -> None:
        content = (raw / path).read_bytes()
        image = read_image(content, size)
        source = read_image(content, params.presize) if params and params.presize else image
        for row in rows:
            key = keys[row] if keys else row
            for view in range(views):
                if params and (view or augmented[row]):
                    images[row * views + view] = draw_view(source, size, seed_view(params, key, view), params)
                else:
                    images[row * views + view] = image

    files = records.reset_index().groupby("path", sort=False).indices
    map_threads(decode, files.keys(), files.values(), desc="decode")
    labels = np.array([CLASSES.index(label) for label in records["label"]], np.uint8)
    return Split(images, labels, records["path"].to_numpy(np.str_), augmented)


def seed_view(params: AugmentParams, key: int, view: int) -> np.random.Generator:
    """Return the generator of one view: it depends only on the seed, the image's key and the view's number."""
    return np.random.default_rng([params.seed, 2, key, view])
