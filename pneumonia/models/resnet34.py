"""ResNet-34 as a Keras model, with torchvision's ImageNet weights from KerasHub.

He, Zhang, Ren & Sun 2016 (arXiv:1512.03385), table 1, with torchvision's padding. Layers have KerasHub's names.
"""

import keras
from keras import layers

from pneumonia.core.errors import InputError

_STACKS = ((64, 3), (128, 4), (256, 6), (512, 3))  # filters, blocks
# torchvision's weights, fastai's default. KerasHub's own network with 34 layers is a ResNet-vd, another architecture.
_PRESET = "hf://timm/resnet34.tv_in1k"


def ResNet34(include_top: bool, weights: str | None, input_shape: tuple[int, int, int], name: str) -> keras.Model:  # noqa: N802
    """Build ResNet-34 as `keras.applications` would.

    Args:
        include_top: must be False; there is no classifier.
        weights: "imagenet", or None for random weights.
        input_shape: (side, side, 3); the weights expect (x / 255 - mean) / standard deviation, those of ImageNet.
        name: of the model.

    Returns:
        A functional model with 512 output channels at 1/32 of the input's side.

    Raises:
        InputError: KerasHub is not installed.
        ConnectionError: the weights cannot be downloaded.
        ValueError: `include_top` is True.
    """
    if include_top:
        raise ValueError("ResNet-34 is built without its top here")
    inputs: keras.KerasTensor = layers.Input(input_shape)  # pyright: ignore[reportAssignmentType]
    x = _convolve(inputs, "conv1", 64, 7, 2)
    x = layers.ReLU(name="conv1_relu")(x)
    x = layers.ZeroPadding2D(1, name="pool1_pad")(x)
    x = layers.MaxPooling2D(3, 2, name="pool1_pool")(x)
    for stack, (filters, blocks) in enumerate(_STACKS):
        for block in range(blocks):
            x = _block(x, f"stack{stack}_block{block}", filters, 2 if stack > 0 and block == 0 else 1)
    model = keras.Model(inputs, x, name=name)
    if weights == "imagenet":
        copy_weights(_download(), model)
    return model


def _convolve(x: keras.KerasTensor, name: str, filters: int, kernel: int, stride: int) -> keras.KerasTensor:
    """Append convolution and BatchNorm; pad both sides equally, which TensorFlow's `same` does not do with strides."""
    if kernel > 1:
        x = layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(x)
    x = layers.Conv2D(filters, kernel, stride, use_bias=False, name=f"{name}_conv")(x)
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_bn")(x)


def _block(inputs: keras.KerasTensor, name: str, filters: int, stride: int) -> keras.KerasTensor:
    """Append a basic block (figure 5, left); with strides its shortcut is a projection (option B)."""
    x = layers.ReLU(name=f"{name}_1_relu")(_convolve(inputs, f"{name}_1", filters, 3, stride))
    x = _convolve(x, f"{name}_2", filters, 3, 1)
    shortcut = inputs if stride == 1 else _convolve(inputs, f"{name}_0", filters, 1, stride)
    return layers.ReLU(name=f"{name}_out")(layers.Add(name=f"{name}_add")([shortcut, x]))


def _download() -> keras.Model:
    """Return KerasHub's model with ImageNet weights, downloaded on first use."""
    try:
        from keras_hub.models import ResNetBackbone
    except ModuleNotFoundError:
        raise InputError(
            "The ImageNet weights of resnet34 come from KerasHub, which is not installed.",
            expected="the package keras-hub, part of the extra `backbones`",
            remedy="make setup-backbones, or set model.weights to a file or none",
        ) from None
    try:
        return ResNetBackbone.from_preset(_PRESET)
    except ValueError as error:  # without a network KerasHub calls the preset invalid
        raise ConnectionError(f"KerasHub could not download {_PRESET}") from error


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Copy the weights of each layer of `target` from the layer of the same name in `source`."""
    for layer in target.layers:
        if layer.weights:
            layer.set_weights(source.get_layer(layer.name).get_weights())
