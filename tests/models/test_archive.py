"""An archive is refused by its directory, before anything in it is unpacked."""

import time
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pneumonia.core.errors import InputError
from pneumonia.core.params import ModelParams
from pneumonia.inference.novelty import Novelty
from pneumonia.models.classifier import build_model, load_model, save_model

NAMES = ("config.json", "metadata.json", "model.weights.h5")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.keras"
    params = ModelParams(backbone="tiny", weights="none", head="sigmoid", image_size=32, dropout=0)
    save_model(build_model(params), path)
    return path


def rewrite(source: Path, target: Path, name: str, content: bytes, twice: bool = False) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.namelist():
            new.writestr(member, content if member == name and not twice else old.read(member))
        if twice:
            with warnings.catch_warnings(action="ignore"):
                new.writestr(name, content)
    return target


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("twice", [False, True])
def test_a_model_with_an_inflated_or_second_member_is_refused_at_once(
    name: str, twice: bool, model: Path, tmp_path: Path
) -> None:
    bomb = rewrite(model, tmp_path / "bomb.keras", name, b" " * (1 << 26), twice)
    start, _ = time.monotonic(), tracemalloc.start()
    with pytest.raises(InputError, match=r"bomb.keras cannot be loaded(.|\n)*Expected(.|\n)*Remedy"):
        load_model(bomb)
    assert time.monotonic() - start < 1 and tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_model_with_weights_that_are_not_finite_is_refused(bad: float, tmp_path: Path) -> None:
    model = build_model(ModelParams(backbone="tiny", weights="none", head="sigmoid", image_size=32, dropout=0))
    weights = model.get_weights()
    weights[-1][:] = bad
    model.set_weights(weights)
    save_model(model, tmp_path / "bad.keras")
    with pytest.raises(InputError, match="a weight is not finite"):
        load_model(tmp_path / "bad.keras")


def test_an_unknown_activation_is_refused(model: Path, tmp_path: Path) -> None:
    config = zipfile.ZipFile(model).read("config.json").replace(b'"linear"', b'"mine>act"')
    with pytest.raises(InputError, match="cannot be loaded"):
        load_model(rewrite(model, tmp_path / "odd.keras", "config.json", config))


@pytest.mark.parametrize("twice", [False, True])
def test_an_inflated_or_second_member_of_a_novelty_is_refused(twice: bool, tmp_path: Path) -> None:
    Novelty(np.zeros(3, np.float32), np.eye(3, dtype=np.float32), 1.0).write(tmp_path / "novelty.npz")
    bomb = rewrite(tmp_path / "novelty.npz", tmp_path / "bomb.npz", "mean.npy", bytes(1 << 26), twice)
    with pytest.raises(InputError, match=r"bomb\.npz cannot be loaded"):
        Novelty.read(bomb)


def test_a_novelty_with_numbers_that_are_not_finite_is_refused(tmp_path: Path) -> None:
    Novelty(np.full(3, np.nan, np.float32), np.eye(3, dtype=np.float32), 1.0).write(tmp_path / "novelty.npz")
    with pytest.raises(InputError, match="not finite"):
        Novelty.read(tmp_path / "novelty.npz")
