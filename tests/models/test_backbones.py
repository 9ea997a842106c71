"""Every backbone of the table builds, and one that cannot is one error that names the way out."""

import subprocess
import sys
from pathlib import Path
from pkgutil import resolve_name

import keras
import numpy as np
import pytest
from projects import ROOT

from pneumonia.core.errors import InputError
from pneumonia.core.params import ModelParams
from pneumonia.models.backbones import BACKBONES, build_backbone, find_backbone, find_image_size

CLOSED_PORT = "http://127.0.0.1:9"
WITHOUT_TENSORFLOW = (
    "pneumonia.models.backbones pneumonia.augment.build stages.fetch stages.validate stages.merge stages.split "
    "stages.augment stages.report stages.register"
)


def ask_for(backbone: str, weights: str | Path = "none", image_size: int = 32) -> ModelParams:
    return ModelParams(backbone=backbone, weights=str(weights), head="sigmoid", image_size=image_size, dropout=0.0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[keras.Model, Path]:
    """Return a tiny backbone and the file of its weights."""
    backbone, path = build_backbone(ask_for("tiny")), tmp_path_factory.mktemp("weights") / "tiny.weights.h5"
    backbone.save_weights(path)
    return backbone, path


@pytest.mark.parametrize("name", BACKBONES)
def test_every_row_names_a_builder_that_exists(name: str):
    assert callable(resolve_name(find_backbone(name).builder))


def test_an_unknown_backbone_is_refused_with_the_names_of_all_rows():
    with pytest.raises(InputError, match="no backbone 'resnet'") as refusal:
        build_backbone(ask_for("resnet"))
    assert all(name in str(refusal.value) for name in BACKBONES)


@pytest.mark.parametrize("name", BACKBONES)
def test_image_size_auto_is_that_of_the_backbone(name: str):
    params = ModelParams(backbone=name, weights="none", head="sigmoid", image_size="auto", dropout=0.0)
    assert find_image_size(params) == BACKBONES[name].image_size


def test_a_backbone_has_the_requested_size_and_the_name_of_its_row():
    backbone = build_backbone(ask_for("tiny", image_size=48))
    assert (backbone.input_shape, backbone.name) == ((None, 48, 48, 3), "tiny")


def test_a_file_of_the_same_backbones_weights_is_loaded(tiny: tuple[keras.Model, Path]):
    backbone, path = tiny
    loaded = build_backbone(ask_for("tiny", path))
    for expected, weight in zip(backbone.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_a_file_of_another_backbones_weights_is_refused(tiny: tuple[keras.Model, Path]):
    with pytest.raises(InputError, match="does not fit efficientnet_lite0"):
        build_backbone(ask_for("efficientnet_lite0", tiny[1]))


@pytest.mark.parametrize("content", ["truncated", "noise", "empty", "missing"])
def test_a_damaged_file_of_weights_is_refused(tiny: tuple[keras.Model, Path], tmp_path: Path, content: str):
    path, whole = tmp_path / "damaged.weights.h5", tiny[1].read_bytes()
    if content != "missing":
        path.write_bytes({"truncated": whole[: len(whole) // 2], "noise": b"\x89noise" * 99, "empty": b""}[content])
    with pytest.raises(InputError, match=r"damaged\.weights\.h5 does not fit tiny"):
        build_backbone(ask_for("tiny", path))


@pytest.mark.parametrize("name", ["inception_v3", "densenet121"])
def test_a_failed_download_is_one_error_that_names_the_ways_out(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # An empty cache, and a way to the network that ends at a closed port.
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path))
    monkeypatch.setenv("https_proxy", CLOSED_PORT)
    with pytest.raises(InputError, match=f"weights of {name} could not be downloaded") as refusal:
        build_backbone(ask_for(name, "imagenet", 75))
    remedy = str(refusal.value).rpartition("Remedy:")[2]
    assert "model.weights to a file or none" in remedy
    assert remedy.endswith("needs no download: efficientnet_lite0, efficientnet_lite1, efficientnet_lite2")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "params", [ask_for("inception_v3"), ask_for("inception_v3", "imagenet"), ask_for("tiny", "imagenet")], ids=str
)
def test_a_size_or_weights_the_backbone_does_not_have_are_refused(params: ModelParams):
    with pytest.raises(InputError, match=f"{params.backbone} cannot be built with 32 pixels"):
        build_backbone(params)


def test_modules_that_only_look_up_a_backbone_do_not_import_tensorflow():
    code = "import importlib, sys\nfor name in sys.argv[1:]:\n    importlib.import_module(name)\n"
    code += "    assert not {'tensorflow', 'keras'} & set(sys.modules), name\n"
    done = subprocess.run(
        [sys.executable, "-c", code, *WITHOUT_TENSORFLOW.split()], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
