"""The table of backbones: one row each. Reading it does not import TensorFlow."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from pneumonia.core.errors import InputError
from pneumonia.core.params import ModelParams

if TYPE_CHECKING:
    import keras


PerChannel = float | tuple[float, float, float]


@dataclass(frozen=True)
class Backbone:
    """One row of the table.

    Attributes:
        builder: "module:function" with the signature of keras.applications.
        image_size: side in pixels of the images its published weights were trained on.
        scale: factor and offset, for all channels or each, that map values 0 to 255 to the range those weights expect.
        from_layer: index or name of the layer from which fine-tuning trains by default.
        needs_download: whether its ImageNet weights are downloaded on first use.
    """

    builder: str
    image_size: int
    scale: tuple[PerChannel, PerChannel]
    from_layer: int | str
    needs_download: bool = True


# The three modes of keras.applications.imagenet_utils.preprocess_input. "caffe" swaps red and blue, which are equal
# in a grey image, so only the order of its means matters: blue, green, red.
_TF = (1 / 127.5, -1.0)
_TORCH = ((1 / 255 / 0.229, 1 / 255 / 0.224, 1 / 255 / 0.225), (-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225))
_CAFFE = (1.0, (-103.939, -116.779, -123.68))
_LITE = (1 / 128, -127 / 128)

# Fine-tuning starts at the last stage: before it, a single tensor holds everything that later layers need.
BACKBONES = {
    "efficientnet_lite0": Backbone(
        "pneumonia.models.efficientnet_lite:EfficientNetLite0", 224, _LITE, "block7a_expand_conv", False
    ),
    "efficientnet_lite1": Backbone(
        "pneumonia.models.efficientnet_lite:EfficientNetLite1", 240, _LITE, "block7a_expand_conv", False
    ),
    "efficientnet_lite2": Backbone(
        "pneumonia.models.efficientnet_lite:EfficientNetLite2", 260, _LITE, "block7a_expand_conv", False
    ),
    "inception_v3": Backbone("keras.applications:InceptionV3", 299, _TF, 250),
    "densenet121": Backbone("keras.applications:DenseNet121", 224, _TORCH, "conv5_block1_0_bn"),
    "resnet34": Backbone("pneumonia.models.resnet34:ResNet34", 224, _TORCH, "stack3_block0_1_pad"),
    "resnet50": Backbone("keras.applications:ResNet50", 224, _CAFFE, "conv5_block1_1_conv"),
    "resnet101": Backbone("keras.applications:ResNet101", 224, _CAFFE, "conv5_block1_1_conv"),
    "mobilenet_v2": Backbone("keras.applications:MobileNetV2", 224, _TF, "block_16_expand"),
    "tiny": Backbone("pneumonia.models.tiny:Tiny", 32, _TF, "conv3", False),  # for tests
}


def find_backbone(name: str) -> Backbone:
    """Return the row of a backbone.

    Raises:
        InputError: the table has no such backbone.
    """
    if name not in BACKBONES:
        raise InputError(f"There is no backbone {name!r}.", expected=", ".join(BACKBONES), remedy="set model.backbone")
    return BACKBONES[name]


def find_image_size(params: ModelParams) -> int:
    """Return the side of the model's input in pixels; "auto" is that of the backbone's row."""
    size = find_backbone(params.backbone).image_size
    return size if params.image_size == "auto" else params.image_size


def build_backbone(params: ModelParams) -> "keras.Model":
    """Build a backbone without its classifier; it takes (n, side, side, 3), scaled as its row says.

    Args:
        params: backbone, image_size, and weights: "imagenet", "none" for random ones, or a .weights.h5 file.

    Raises:
        InputError: the weights cannot be downloaded, do not exist or belong to another network, or the images are too
            small for this one.
    """
    backbone, size, name = find_backbone(params.backbone), find_image_size(params), params.backbone
    offline = [row for row, b in BACKBONES.items() if not b.needs_download and row != "tiny"]
    remedy = (
        f"set model.weights to a file or none, or model.backbone to one that needs no download: {', '.join(offline)}"
    )
    named = params.weights if params.weights == "imagenet" else None
    try:
        model = resolve_name(backbone.builder)(include_top=False, weights=named, input_shape=(size, size, 3), name=name)
    except InputError:
        raise
    except ValueError as error:  # the builder's own checks
        what = f"{name} cannot be built with {size} pixels and model.weights={params.weights}: {error}."
        raise InputError(
            what, expected="a size and weights that it has", remedy="set model.image_size or model.weights"
        ) from error
    except Exception as error:  # Keras wraps every failing download in a bare Exception
        if named is None:
            raise
        what = f"The ImageNet weights of {name} could not be downloaded: {error}."
        raise InputError(what, expected="a network, or the file in Keras' cache", remedy=remedy) from error
    if params.weights not in ("imagenet", "none"):
        try:
            with warnings.catch_warnings():
                # For weights of another network Keras warns a hundred times before it raises.
                warnings.filterwarnings("ignore", "Skipping nested container", UserWarning)
                model.load_weights(Path(params.weights))
        except (OSError, ValueError) as error:
            what = f"model.weights={params.weights} does not fit {name}: {error}."
            raise InputError(what, expected="a .weights.h5 file of this backbone", remedy=remedy) from error
    return model
