"""Balance the training split, decode every film once, draw its variants, and keep all splits in one pickle."""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pneumonia.compute import map_threads
from pneumonia.errors import InputError
from pneumonia.files import replacing
from pneumonia.images import Pixels, read_film
from pneumonia.params import AugmentParams
from pneumonia.records import CLASSES, SPLITS
from pneumonia.views import draw_view


@dataclass(frozen=True)
class Split:
    """Films of one split in shuffled order.

    Attributes:
        images: grey values 0 to 255, uint8 (n * views, side, side): the variants of a film follow one another.
        labels: index into CLASSES, uint8 (n,).
        paths: file each film comes from, below the raw folder, str (n,).
        augmented: whether the film is an altered copy of another, bool (n,).
    """

    images: Pixels
    labels: npt.NDArray[np.uint8]
    paths: npt.NDArray[np.str_]
    augmented: npt.NDArray[np.bool_]

    @property
    def views(self) -> int:
        """Variants of each film; the first is the film itself unless it is an altered copy."""
        return len(self.images) // len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """All three splits and the weight of each class in the loss."""

    train: Split
    val: Split
    test: Split
    class_weight: dict[int, float]


def build_dataset(records: pd.DataFrame, raw: Path, size: int, params: AugmentParams) -> Dataset:
    """Balance training, shuffle and decode all splits; val and test hold every film once, as it is."""
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
    """Give both classes as many training films, by `augment` or `undersample`.

    Returns:
        The records with a column `augmented`; with `augment`, films of the rarer class follow as altered copies.
    """
    rng = np.random.default_rng([params.seed, 1])
    counts = train["label"].value_counts().reindex(CLASSES)
    minority, majority = (np.flatnonzero(train["label"] == name) for name in counts.sort_values(kind="stable").index)
    train = train.assign(augmented=False)
    if params.balance == "undersample":
        kept = rng.choice(majority, len(minority), replace=False)
        return train.iloc[np.sort(np.r_[minority, kept])]
    if params.balance == "augment" and (missing := len(majority) - len(minority)):
        # Whole permutations in turn: no film is altered twice before every other was altered once.
        rounds = -(-missing // len(minority))
        chosen = np.concatenate([rng.permutation(minority) for _ in range(rounds)])[:missing]
        return pd.concat([train, train.iloc[chosen].assign(augmented=True)])
    return train


def read_split(records: pd.DataFrame, raw: Path, size: int, params: AugmentParams | None = None) -> Split:
    """Decode the films of a records table to squares of `size` pixels, in parallel.

    Args:
        records: films in order; with `params` they have a column `augmented`, as `balance` adds it.
        raw: folder of the films.
        size: side in pixels.
        params: how variants are drawn; without it each film is there once, as it is.
    """
    views = params.views if params else 1
    augmented = records["augmented"].to_numpy() if params else np.zeros(len(records), bool)
    images = np.empty((len(records) * views, size, size), np.uint8)

    def decode(path: str, rows: npt.NDArray[np.int64]) -> None:
        content = (raw / path).read_bytes()
        film = read_film(content, size)
        source = read_film(content, params.presize) if params and params.presize else film
        for row in rows:
            for view in range(views):
                if params and (view or augmented[row]):
                    images[row * views + view] = draw_view(source, size, view_rng(params, row, view), params)
                else:
                    images[row * views + view] = film

    films = records.reset_index().groupby("path", sort=False).indices
    map_threads(decode, films.keys(), films.values(), desc="decode")
    labels = np.array([CLASSES.index(label) for label in records["label"]], np.uint8)
    return Split(images, labels, records["path"].to_numpy(np.str_), augmented)


def view_rng(params: AugmentParams, row: int, view: int) -> np.random.Generator:
    """Return what a variant is drawn from: it depends on the seed, the film's row and the variant's number only."""
    return np.random.default_rng([params.seed, 2, row, view])


def write_dataset(dataset: Dataset, path: Path) -> None:
    """Pickle a dataset as plain types: of each array its dtype, shape and bytes."""
    splits = {name: {key: _take_apart(a) for key, a in vars(getattr(dataset, name)).items()} for name in SPLITS}
    with replacing(path) as beside, beside.open("wb") as file:
        pickle.dump(splits | {"class_weight": dataset.class_weight}, file, protocol=5)


class _PlainUnpickler(pickle.Unpickler):
    """Accept plain types only: a pickle from a cache or a remote must not be able to run code.

    NumPy's own classes are refused too: a forged state makes a dtype take bytes for pointers.
    """

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} is no plain type")


def _take_apart(array: npt.NDArray[Any]) -> tuple[str, tuple[int, ...], pickle.PickleBuffer]:
    return array.dtype.str, array.shape, pickle.PickleBuffer(np.ascontiguousarray(array).data.toreadonly())


def _put_together(dtype: str, shape: tuple[int, ...], content: bytes) -> npt.NDArray[Any]:
    return np.frombuffer(content, dtype).reshape(shape)


def read_dataset(path: Path) -> Dataset:
    """Load what `write_dataset` wrote.

    Raises:
        InputError: the file is damaged or holds anything but plain types.
    """
    try:
        with path.open("rb") as file:
            content = _PlainUnpickler(file).load()
        splits = {name: Split(**{k: _put_together(*a) for k, a in content[name].items()}) for name in SPLITS}
        return Dataset(**splits, class_weight=content["class_weight"])
    except Exception as error:  # a damaged pickle may raise anything
        raise InputError(
            f"{path} cannot be loaded: {error!r}.",
            expected="the pickle of the augment stage",
            remedy="dvc repro --force augment",
        ) from error
