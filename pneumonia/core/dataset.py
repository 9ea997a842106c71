"""The data set: decoded images of all splits, in one pickle of plain types."""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pneumonia.core.errors import InputError
from pneumonia.core.files import replacing

SPLITS = ("train", "val", "test")  # not from `tables`: it imports pandas, 80 MB in each process that decodes images
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Split:
    """The images of one split, in shuffled order.

    Attributes:
        images: grey values 0 to 255, uint8 (n * views, side, side); the views of an image are adjacent.
        labels: indices into CLASSES, uint8 (n,).
        paths: the image's file below the raw folder, str (n,).
        augmented: whether the image is an altered copy of another, bool (n,).
    """

    images: Pixels
    labels: npt.NDArray[np.uint8]
    paths: npt.NDArray[np.str_]
    augmented: npt.NDArray[np.bool_]

    @property
    def views(self) -> int:
        """Number of views of each image; the first is the image as it is, or the altered copy."""
        return len(self.images) // len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """All three splits, and the weight of each label in the loss."""

    train: Split
    val: Split
    test: Split
    class_weight: dict[int, float]


def write_dataset(dataset: Dataset, path: Path) -> None:
    """Pickle a data set as plain types: dtype, shape and bytes of each array."""
    splits = {name: {key: _take_apart(a) for key, a in vars(getattr(dataset, name)).items()} for name in SPLITS}
    with replacing(path) as beside, beside.open("wb") as file:
        pickle.dump(splits | {"class_weight": dataset.class_weight}, file, protocol=5)


class _PlainUnpickler(pickle.Unpickler):
    """Accept plain types only, so that a pickle from a cache or a remote cannot run code.

    NumPy's own classes are refused too: with a forged state a dtype takes bytes for pointers.
    """

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} is not a plain type")


def _take_apart(array: npt.NDArray[Any]) -> tuple[str, tuple[int, ...], pickle.PickleBuffer]:
    return array.dtype.str, array.shape, pickle.PickleBuffer(np.ascontiguousarray(array).data.toreadonly())


def _put_together(dtype: str, shape: tuple[int, ...], content: bytes) -> npt.NDArray[Any]:
    return np.frombuffer(content, dtype).reshape(shape)


def read_dataset(path: Path) -> Dataset:
    """Read what `write_dataset` wrote.

    Raises:
        InputError: the file is missing or damaged, or holds anything but plain types.
    """
    try:
        with path.open("rb") as file:
            content = _PlainUnpickler(file).load()
        splits = {name: Split(**{k: _put_together(*a) for k, a in content[name].items()}) for name in SPLITS}
        return Dataset(**splits, class_weight=content["class_weight"])
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(
            f"{path} cannot be loaded: {error!r}.",
            expected="the pickle of the augment stage",
            remedy="dvc repro --force augment",
        ) from error
