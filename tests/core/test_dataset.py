"""A data set is read as it was written, and a forged pickle is refused before it can do anything."""

import builtins
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pneumonia.core.dataset import Dataset, Split, read_dataset, write_dataset
from pneumonia.core.errors import InputError
from pneumonia.core.names import SPLITS


def make_split(number: int) -> Split:
    images = np.random.default_rng(number).integers(0, 256, (number, 6, 6), np.uint8)
    labels = np.arange(number, dtype=np.uint8) % 2
    paths = np.array([f"train/NORMAL/Übersicht {row}.jpeg" for row in range(number)])
    return Split(images, labels, paths, np.arange(number) > 1)


DATASET = Dataset(make_split(5), make_split(2), make_split(3), {0: 1.5, 1: 0.75})


class Call:
    """Pickles as a call that an ordinary unpickler would make."""

    def __init__(self, *call: Any):
        self.call = call

    def __reduce__(self) -> Any:
        function, *arguments = self.call
        return function, tuple(arguments)


class Forged:
    """Pickles as a dtype of objects that claims to hold none, so that bytes would be read as pointers."""

    def __reduce__(self) -> Any:
        return np.dtype, ("O", False, True), (3, "|", None, None, None, -1, -1, 0)


def test_a_data_set_read_back_equals_the_one_written(tmp_path: Path):
    write_dataset(DATASET, tmp_path / "dataset.pkl")
    read = read_dataset(tmp_path / "dataset.pkl")
    assert read.class_weight == DATASET.class_weight
    for name in SPLITS:
        for before, after in zip(
            vars(getattr(DATASET, name)).values(), vars(getattr(read, name)).values(), strict=True
        ):
            assert before.dtype == after.dtype
            assert np.array_equal(before, after)


def test_arrays_of_any_memory_order_are_kept(tmp_path: Path):
    train = DATASET.train
    turned = Split(train.images.transpose(0, 2, 1), train.labels[::-1], train.paths[::-1], train.augmented)
    write_dataset(Dataset(turned, turned, turned, {0: 1.0, 1: 1.0}), tmp_path / "dataset.pkl")
    read = read_dataset(tmp_path / "dataset.pkl")
    assert np.array_equal(read.test.images, turned.images)
    assert read.test.paths.tolist() == turned.paths.tolist()


@pytest.mark.parametrize(
    "intruder",
    [
        Call(os.system, "touch ran"),
        Call(builtins.eval, "open('ran', 'w').close()"),
        Call(builtins.exec, "open('ran', 'w').close()"),
        Call(np.save, "ran", 1),
        Call(np.fromfile, "ran"),
        Call(np.ndarray, (1,), "O", b"pointers"),
        Forged(),
        np.zeros(3),
        Path("ran"),
    ],
    ids=["os.system", "eval", "exec", "numpy.save", "numpy.fromfile", "ndarray", "dtype", "array", "path"],
)
def test_a_pickle_that_names_any_class_or_function_is_refused_before_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, intruder: Any
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dataset.pkl").write_bytes(pickle.dumps({"train": intruder}))
    with pytest.raises(InputError, match="is not a plain type"):
        read_dataset(Path("dataset.pkl"))
    assert os.listdir(tmp_path) == ["dataset.pkl"]


@pytest.mark.parametrize("dtype", ["O", [("image", "O")]])
def test_bytes_are_never_read_as_objects(tmp_path: Path, dtype: Any):
    content = {name: {"images": (dtype, (1,), b"pointers")} for name in SPLITS}
    (tmp_path / "dataset.pkl").write_bytes(pickle.dumps(content | {"class_weight": {}}))
    with pytest.raises(InputError, match="OBJECT array"):
        read_dataset(tmp_path / "dataset.pkl")


def test_a_pickle_truncated_anywhere_is_refused(tmp_path: Path):
    path = tmp_path / "dataset.pkl"
    write_dataset(DATASET, path)
    whole = path.read_bytes()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"dataset\.pkl cannot be loaded"):
            read_dataset(path)


@pytest.mark.parametrize("content", [None, [], {}, {"train": 3}, {name: {} for name in SPLITS}])
def test_any_other_pickle_is_refused_with_the_command_that_makes_the_right_one(tmp_path: Path, content: Any):
    (tmp_path / "dataset.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match="Remedy: dvc repro --force augment"):
        read_dataset(tmp_path / "dataset.pkl")


def test_a_missing_pickle_is_named_in_the_error(tmp_path: Path):
    with pytest.raises(InputError, match=r"dataset\.pkl cannot be loaded"):
        read_dataset(tmp_path / "dataset.pkl")
