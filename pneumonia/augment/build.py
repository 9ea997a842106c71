"""Balance the training split, decode every image once and draw its variants."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from pneumonia.augment.views import draw_view
from pneumonia.core.dataset import Dataset, Split
from pneumonia.core.params import AugmentParams
from pneumonia.core.runtime import map_threads
from pneumonia.core.tables import CLASSES, SPLITS
from pneumonia.images.decode import read_image


def build_dataset(records: pd.DataFrame, raw: Path, size: int, params: AugmentParams) -> Dataset:
    """Balance training, shuffle and decode all splits; val and test hold every image once, as it is."""
    rng = np.random.default_rng(params.seed)
    tables = {name: records[records["split"] == name] for name in SPLITS}
    tables["train"] = balance(tables["train"], params)
    weights = {0: 1.0, 1: 1.0}
    if params.balance == "class_weight":
        counts = tables["train"]["label"].value_counts()
        weights = {label: float(counts.sum() / (2 * counts[name])) for label, name in enumerate(CLASSES)}
    shuffled = {name: table.iloc[rng.permutation(len(table))] for name, table in tables.items()}
    splits = {name: read_split(t, raw, size, params if name == "train" else None) for name, t in shuffled.items()}
    return Dataset(**splits, class_weight=weights)


def balance(train: pd.DataFrame, params: AugmentParams) -> pd.DataFrame:
    """Give both classes as many training images, by `augment` or `undersample`.

    Returns:
        The records with a column `augmented`; with `augment`, images of the rarer class follow as altered copies.
    """
    rng = np.random.default_rng([params.seed, 1])
    counts = train["label"].value_counts().reindex(CLASSES)
    minority, majority = (np.flatnonzero(train["label"] == name) for name in counts.sort_values(kind="stable").index)
    train = train.assign(augmented=False)
    if params.balance == "undersample":
        kept = rng.choice(majority, len(minority), replace=False)
        return train.iloc[np.sort(np.r_[minority, kept])]
    if params.balance == "augment" and (missing := len(majority) - len(minority)):
        # Whole permutations in turn: no image is altered twice before every other was altered once.
        rounds = -(-missing // len(minority))
        chosen = np.concatenate([rng.permutation(minority) for _ in range(rounds)])[:missing]
        return pd.concat([train, train.iloc[chosen].assign(augmented=True)])
    return train


def read_split(records: pd.DataFrame, raw: Path, size: int, params: AugmentParams | None = None) -> Split:
    """Decode the images of a records table to squares of `size` pixels, in parallel.

    Args:
        records: images in order; with `params` they have a column `augmented`, as `balance` adds it.
        raw: folder of the images.
        size: side in pixels.
        params: how variants are drawn; without it each image is there once, as it is.
    """
    views = params.views if params else 1
    augmented = records["augmented"].to_numpy() if params else np.zeros(len(records), bool)
    images = np.empty((len(records) * views, size, size), np.uint8)

    def decode(path: str, rows: npt.NDArray[np.int64]) -> None:
        content = (raw / path).read_bytes()
        image = read_image(content, size)
        source = read_image(content, params.presize) if params and params.presize else image
        for row in rows:
            for view in range(views):
                if params and (view or augmented[row]):
                    images[row * views + view] = draw_view(source, size, view_rng(params, row, view), params)
                else:
                    images[row * views + view] = image

    files = records.reset_index().groupby("path", sort=False).indices
    map_threads(decode, files.keys(), files.values(), desc="decode")
    labels = np.array([CLASSES.index(label) for label in records["label"]], np.uint8)
    return Split(images, labels, records["path"].to_numpy(np.str_), augmented)


def view_rng(params: AugmentParams, row: int, view: int) -> np.random.Generator:
    """Return what a variant is drawn from: it depends on the seed, the image's row and the variant's number only."""
    return np.random.default_rng([params.seed, 2, row, view])
