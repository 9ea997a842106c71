"""ResNet-34 is the published network, and takes the weights that KerasHub converts to the places they belong."""

import json
import sys
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import pytest
from keras_hub.models import ResNetBackbone
from safetensors.numpy import save_file

from pneumonia.core.errors import InputError
from pneumonia.core.params import ModelParams
from pneumonia.models.backbones import build_backbone
from pneumonia.models.classifier import count_parameters
from pneumonia.models.resnet34 import copy_weights

Tensors = dict[str, npt.NDArray[np.float32]]
IMAGES = np.random.default_rng(1).normal(size=(2, 64, 64, 3)).astype(np.float32)


def ask_for(weights: str) -> ModelParams:
    return ModelParams(backbone="resnet34", weights=weights, head="sigmoid", image_size=64, dropout=0.0)


def draw_torchvision() -> Tensors:
    """Draw tensors with the names and shapes of torchvision's `resnet34().state_dict()`, its classifier left out."""
    rng = np.random.default_rng(0)
    tensors: dict[str, npt.NDArray[np.float64]] = {}

    def convolution(name: str, norm: str, out: int, into: int, kernel: int) -> None:
        tensors[f"{name}.weight"] = rng.normal(0, (2 / (into * kernel**2)) ** 0.5, (out, into, kernel, kernel))
        for key in ("weight", "bias", "running_mean", "running_var"):
            tensors[f"{norm}.{key}"] = rng.uniform(0.5, 1.0, out)

    convolution("conv1", "bn1", 64, 3, 7)
    into = 64
    for layer, (filters, blocks) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)], 1):
        for block in range(blocks):
            name = f"layer{layer}.{block}"
            convolution(f"{name}.conv1", f"{name}.bn1", filters, into, 3)
            convolution(f"{name}.conv2", f"{name}.bn2", filters, filters, 3)
            if into != filters:
                convolution(f"{name}.downsample.0", f"{name}.downsample.1", filters, into, 1)
            into = filters
    return {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in tensors.items()}


@pytest.fixture(scope="module")
def torchvision() -> Tensors:
    return draw_torchvision()


@pytest.fixture
def preset(torchvision: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a folder as the hub has it, from which the weights are taken instead."""
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet34", "num_classes": 1000}))
    save_file(torchvision, tmp_path / "model.safetensors")
    monkeypatch.setattr("pneumonia.models.resnet34._PRESET", str(tmp_path))
    return str(tmp_path)


def test_it_has_the_21_284_672_parameters_of_torchvisions_less_its_classifier(torchvision: Tensors):
    total, trainable = count_parameters(build_backbone(ask_for("none")))
    assert trainable == 21_284_672
    assert total == sum(tensor.size for tensor in torchvision.values())


def test_it_computes_what_kerashubs_computes_with_the_same_weights():
    ours = build_backbone(ask_for("none"))
    theirs = ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 128, 256, 512],
        stackwise_num_blocks=[3, 4, 6, 3],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="basic_block",
        image_shape=(64, 64, 3),
    )
    copy_weights(theirs, ours)
    np.testing.assert_allclose(ours(IMAGES), theirs(IMAGES), rtol=1e-5, atol=1e-6)
    assert len(ours.weights) == len(theirs.weights)


def test_published_tensors_come_to_the_layers_they_belong_to(preset: str, torchvision: Tensors):
    backbone = build_backbone(ask_for("imagenet"))
    for layer, original in {
        "conv1": "conv1",
        "stack0_block2_2": "layer1.2.conv2",
        "stack3_block0_1": "layer4.0.conv1",
    }.items():
        (kernel,) = backbone.get_layer(f"{layer}_conv").get_weights()
        np.testing.assert_array_equal(kernel, torchvision[f"{original}.weight"].transpose(2, 3, 1, 0))
    statistics = [
        torchvision[f"layer2.0.downsample.1.{key}"] for key in ("weight", "bias", "running_mean", "running_var")
    ]
    for loaded, tensor in zip(backbone.get_layer("stack1_block0_0_bn").get_weights(), statistics, strict=True):
        np.testing.assert_array_equal(loaded, tensor)


def test_with_published_tensors_it_computes_what_kerashubs_computes(preset: str):
    ours, theirs = build_backbone(ask_for("imagenet")), ResNetBackbone.from_preset(preset)
    np.testing.assert_allclose(ours(IMAGES), theirs(IMAGES), rtol=1e-5, atol=1e-6)


def test_without_kerashub_it_is_built_with_random_weights_and_published_ones_are_refused(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setitem(sys.modules, "keras_hub.models", None)
    assert isinstance(build_backbone(ask_for("none")), keras.Model)
    with pytest.raises(InputError, match="KerasHub, which is not installed") as refusal:
        build_backbone(ask_for("imagenet"))
    assert "part of the extra `backbones`" in str(refusal.value)
    assert "make setup-backbones" in str(refusal.value)


def test_weights_that_cannot_be_downloaded_are_refused_with_the_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # or it tries for 24 seconds
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        InputError, match=r"weights of resnet34 could not be downloaded: KerasHub could not download"
    ) as refusal:
        build_backbone(ask_for("imagenet"))
    assert "needs no download: efficientnet_lite0" in str(refusal.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
