"""Decode every film once, balance the training split, and keep all splits in one pickle."""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.ndimage import affine_transform

from pneumonia.compute import map_threads
from pneumonia.errors import InputError
from pneumonia.files import replacing
from pneumonia.images import Pixels, read_film
from pneumonia.params import AugmentParams
from pneumonia.records import CLASSES, SPLITS


@dataclass(frozen=True)
class Split:
    """Films of one split in shuffled order.

    Attributes:
        images: grey values 0 to 255, uint8 (n, side, side).
        labels: index into CLASSES, uint8 (n,).
        paths: file each film comes from, below the raw folder, str (n,).
        augmented: whether the film is an altered copy, bool (n,).
    """

    images: Pixels
    labels: npt.NDArray[np.uint8]
    paths: npt.NDArray[np.str_]
    augmented: npt.NDArray[np.bool_]

    def take(self, rows: npt.NDArray[Any]) -> "Split":
        """Return the films at `rows`, in that order."""
        return Split(self.images[rows], self.labels[rows], self.paths[rows], self.augmented[rows])


@dataclass(frozen=True)
class Dataset:
    """All three splits and the weight of each class in the loss."""

    train: Split
    val: Split
    test: Split
    class_weight: dict[int, float]


def read_split(records: pd.DataFrame, raw: Path, size: int) -> Split:
    """Decode the films of a records table to squares of `size` pixels, in parallel."""
    images = np.empty((len(records), size, size), np.uint8)

    def decode(row: int, path: str) -> None:
        images[row] = read_film((raw / path).read_bytes(), size)

    map_threads(decode, range(len(records)), records["path"], desc="decode")
    labels = np.array([CLASSES.index(label) for label in records["label"]], np.uint8)
    return Split(images, labels, records["path"].to_numpy(np.str_), np.zeros(len(records), bool))


def build_dataset(records: pd.DataFrame, raw: Path, size: int, params: AugmentParams) -> Dataset:
    """Decode all splits, balance training and shuffle; val and test hold original films only."""
    rng = np.random.default_rng(params.seed)
    splits = {name: read_split(records[records["split"] == name], raw, size) for name in SPLITS}
    splits["train"] = balance(splits["train"], params)
    weights = {0: 1.0, 1: 1.0}
    if params.balance == "class_weight":
        counts = np.bincount(splits["train"].labels, minlength=2)
        weights = {label: float(counts.sum() / (2 * counts[label])) for label in (0, 1)}
    shuffled = {name: split.take(rng.permutation(len(split.labels))) for name, split in splits.items()}
    return Dataset(**shuffled, class_weight=weights)


def balance(train: Split, params: AugmentParams) -> Split:
    """Give both classes as many training films, by `augment` or `undersample`; else return them as they are."""
    rng = np.random.default_rng([params.seed, 1])
    counts = np.bincount(train.labels, minlength=2)
    minority, majority = np.argsort(counts, stable=True)
    if params.balance == "undersample":
        kept = rng.choice(np.flatnonzero(train.labels == majority), counts[minority], replace=False)
        return train.take(np.sort(np.r_[np.flatnonzero(train.labels == minority), kept]))
    if params.balance == "augment" and (missing := int(counts[majority] - counts[minority])):
        # Whole permutations in turn: no film is altered twice before every other was altered once.
        sources = np.flatnonzero(train.labels == minority)
        rounds = -(-missing // len(sources))
        chosen = train.take(np.concatenate([rng.permutation(sources) for _ in range(rounds)])[:missing])
        return _append(train, Split(alter(chosen.images, params), chosen.labels, chosen.paths, np.ones(missing, bool)))
    return train


def _append(first: Split, second: Split) -> Split:
    return Split(*(np.concatenate(pair) for pair in zip(vars(first).values(), vars(second).values(), strict=True)))


def alter(images: Pixels, params: AugmentParams) -> Pixels:
    """Rotate, shift, flip and brighten each image at random, in one bilinear interpolation.

    Pixels that come from outside repeat the edge. Image i depends on the seed and i only.

    Args:
        images: grey values 0 to 255, uint8 (n, side, side).
        params: ranges.
    """
    altered = np.empty_like(images)

    def fill(row: int) -> None:
        altered[row] = _alter(images[row], np.random.default_rng([params.seed, 2, row]), params)

    map_threads(fill, range(len(images)), desc="alter")  # SciPy releases the interpreter lock
    return altered


def _alter(image: Pixels, rng: np.random.Generator, params: AugmentParams) -> Pixels:
    angle = np.deg2rad(rng.uniform(-params.rotation_degrees, params.rotation_degrees))
    shift = rng.uniform(-params.shift, params.shift, 2) * image.shape
    factor = rng.uniform(*params.brightness)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if params.horizontal_flip and rng.random() < 0.5:
        matrix = matrix @ np.diag([1.0, -1.0])
    centre = (np.array(image.shape) - 1) / 2
    offset: Any = centre - matrix @ (centre + shift)
    moved = affine_transform(image.astype(np.float32), matrix, offset, order=1, mode="nearest")
    return np.clip(np.rint(moved * factor), 0, 255).astype(np.uint8)


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
