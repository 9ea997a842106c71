"""The train stage writes the same bytes whatever it is not declared to depend on."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from phases import PARAMS
from stores import working_in

from pneumonia.core.dataset import Dataset, Split, write_dataset
from pneumonia.core.params import Params
from stages.train import train

OUTPUTS = ("model.keras", "history.csv", "metrics.json", "range.csv")


def make_split(images: int, seed: int) -> Split:
    rng = np.random.default_rng(seed)
    labels = (np.arange(images) % 2).astype(np.uint8)
    pixels = rng.integers(0, 256, (images, 32, 32), dtype=np.uint8)
    return Split(pixels, labels, labels.astype(str), np.zeros(images, bool))


DATASET = Dataset(make_split(12, 1), make_split(6, 2), make_split(4, 3), {0: 1.0, 1: 1.0})


def make_params(**sections: dict[str, Any]) -> Params:
    changes = {
        "model": {"backbone": "tiny", "weights": "none", "image_size": 32},
        "train": {"epochs": 1, "batch_size": 4} | sections.pop("train", {}),
    } | sections
    return PARAMS.model_copy(update={n: getattr(PARAMS, n).model_copy(update=v) for n, v in changes.items()})


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return run_train(tmp_path_factory.mktemp("expected"))


def run_train(folder: Path, **sections: dict[str, Any]) -> dict[str, bytes]:
    """Run the stage in an empty project and return what it wrote."""
    params = make_params(**sections)
    with working_in(folder):
        write_dataset(DATASET, Path("dataset.pkl"))
        keras.utils.clear_session()  # names of layers are counted per process
        paths = [Path(name) for name in OUTPUTS]
        train(Path("dataset.pkl"), *paths, params=params.train, model=params.model, recorded=params)  # pyright: ignore
        return {name: Path(name).read_bytes() for name in OUTPUTS}


def test_the_initial_model_does_not_depend_on_where_fine_tuning_begins(expected: dict[str, bytes], tmp_path: Path):
    assert run_train(tmp_path, finetune={"from_layer": 0}) == expected


def test_the_initial_model_depends_on_its_own_section(expected: dict[str, bytes], tmp_path: Path):
    assert run_train(tmp_path, train={"seed": 2})["model.keras"] != expected["model.keras"]
