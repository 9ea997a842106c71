"""Show where in an image a classifier sees evidence for pneumonia: Grad-CAM and class activation maps."""

from functools import reduce
from math import prod
from typing import Any, Literal

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from keras import layers, ops
from matplotlib import colormaps

from pneumonia.core.dataset import Pixels
from pneumonia.core.errors import InputError
from pneumonia.inference.scores import BATCH_SIZE
from pneumonia.models.activations import run_batches
from pneumonia.models.cut import get_backbone

Method = Literal["grad_cam", "cam"]
Maps = npt.NDArray[np.float32]
TITLES: dict[Method, str] = {"grad_cam": "Grad-CAM", "cam": "Class activation maps"}


def explain(model: keras.Model, images: Pixels, method: Method, batch_size: int = BATCH_SIZE) -> Maps:
    """Return a heat map of each image: where the model finds evidence for pneumonia, and how much.

    Only positive evidence counts. Each map is divided by its own maximum, so the maps of two images cannot be compared
    in size. The map of an image without positive evidence is 0 everywhere.

    Args:
        model: a classifier; the feature maps explained are its backbone's output.
        images: grey values 0 to 255, uint8 (n, side, side), side as the model expects.
        method: grad_cam or cam, as in `locate_evidence`.
        batch_size: images at a time.

    Returns:
        float32 (n, side, side), 0 to 1, enlarged bilinearly from the feature maps.

    Raises:
        InputError: as in `locate_evidence`.
    """
    return enlarge(locate_evidence(model, images, method, batch_size), images.shape[1])


def enlarge(evidence: Maps, side: int) -> Maps:
    """Return the evidence (n, height, width) of `locate_evidence` as heat maps (n, side, side), 0 to 1."""
    maps = tf.image.resize(np.maximum(evidence, 0)[..., None], (side, side)).numpy()[..., 0]
    highest = maps.max(axis=(1, 2), keepdims=True)
    return np.divide(maps, highest, out=np.zeros_like(maps), where=highest > 0)


def overlay(image: Pixels, heatmap: Maps, opacity: float = 0.6) -> Pixels:
    """Return an image with its heat map on top, RGB uint8 (side, side, 3).

    Args:
        image: grey values 0 to 255, uint8 (side, side).
        heatmap: 0 to 1, shape (side, side).
        opacity: of the map where it is 1, 0 to 1.
    """
    weight = opacity * heatmap[..., None]
    colours = colormaps["inferno"](heatmap)[..., :3] * 255
    return (image[..., None] * (1 - weight) + colours * weight).round().astype(np.uint8)


def locate_evidence(model: keras.Model, images: Pixels, method: Method, batch_size: int = BATCH_SIZE) -> Maps:
    """Return the evidence for pneumonia, or against it where negative, at each place of the backbone's output.

    grad_cam weighs each feature map by the mean gradient of the log odds (Selvaraju et al. 2017, arXiv:1610.02391,
    equations 1 and 2 before the ReLU). cam weighs it by its weight in the linear head (Zhou et al. 2016,
    arXiv:1512.04150, equation 2), divided by the number of places, so that a map's sum plus the bias is the log odds.
    With global average pooling and a linear head the two are equal.

    Args:
        model: a classifier.
        images: grey values 0 to 255, uint8 (n, side, side), side as the model expects.
        method: grad_cam or cam.
        batch_size: images at a time.

    Returns:
        In units of log odds, float32 (n, height, width) of the backbone's output.

    Raises:
        InputError: cam for a head other than global average pooling and linear layers.
    """
    evidence = locate(model, method)
    batches = [batch for _, batch in run_batches(evidence, images, batch_size)]
    return np.concatenate([np.empty((0, *evidence.output_shape[1:]), np.float32), *batches])


def locate(model: keras.Model, method: Method) -> keras.Model:
    """Return a model from images (n, side, side, 1) to the evidence that `locate_evidence` returns, with its errors."""
    head = model.layers[model.layers.index(get_backbone(model)) + 1 :]
    features = head[0].input
    if method == "cam":
        evidence = ops.squeeze(ops.matmul(features, _weigh_features(head) / prod(features.shape[1:3])), -1)
    else:
        evidence = _GradCam(keras.Model(features, model.output))(features)
    return keras.Model(model.input, evidence, name=method)


class _GradCam(layers.Layer):
    """Weigh feature maps by the mean gradient of the head's output."""

    def __init__(self, head: keras.Model) -> None:
        super().__init__(name="weighted_by_gradient")
        self.head = head

    def call(self, features: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(features)
            log_odds = self.head(features, training=False)
        weights = ops.mean(tape.gradient(log_odds, features), axis=(1, 2), keepdims=True)
        return ops.sum(weights * features, axis=-1)


def _weigh_features(head: list[keras.Layer]) -> npt.NDArray[np.float32]:
    """Return the weight of each feature map in the log odds, shape (c, 1)."""
    pool, *rest = head
    dense = [layer for layer in rest if not isinstance(layer, layers.Dropout)]
    linear = all(isinstance(layer, layers.Dense) and layer.activation is keras.activations.linear for layer in dense)
    if not isinstance(pool, layers.GlobalAveragePooling2D) or not linear:
        raise InputError(
            f"evaluate.heatmap=cam cannot explain a head of {', '.join(type(layer).__name__ for layer in head)}.",
            expected="global average pooling, then linear layers",
            remedy="set evaluate.heatmap to grad_cam",
        )
    return reduce(np.matmul, [layer.get_weights()[0] for layer in dense])
