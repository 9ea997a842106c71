"""Freeze the lower part of a classifier and separate it from the trainable part."""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import keras
import tensorflow as tf
from keras import layers

from pneumonia.core.errors import InputError
from pneumonia.models.backbones import find_backbone


def get_backbone(model: keras.Model) -> keras.Model:
    """Return the backbone inside a classifier."""
    return next(layer for layer in model.layers if isinstance(layer, keras.Model))


def find_layer(backbone: keras.Model, name: int | str) -> int:
    """Return the index of a backbone's layer.

    Args:
        backbone: from `build_backbone`.
        name: index or name of the layer; "auto" is where the table of backbones starts to fine-tune.

    Raises:
        InputError: the backbone has no such layer.
    """
    wanted = find_backbone(backbone.name).from_layer if name == "auto" else name
    names = [layer.name for layer in backbone.layers]
    if isinstance(wanted, str) and wanted in names:
        return names.index(wanted)
    if isinstance(wanted, int) and 0 <= wanted < len(names):
        return wanted
    raise InputError(
        f"{backbone.name} has no layer {wanted!r}, which finetune.from_layer names.",
        expected=f"an index from 0 to {len(names) - 1}, a layer's name such as {names[-1]}, or auto",
        remedy="correct finetune.from_layer",
    )


def freeze_below(model: keras.Model, from_layer: int | None) -> None:
    """Freeze the backbone's layers below index `from_layer` and make the others trainable; None freezes them all."""
    for index, layer in enumerate(get_backbone(model).layers):
        layer.trainable = from_layer is not None and index >= from_layer


class Inference(layers.Layer):
    """Call a model in inference mode: `fit` on a model around it would override its `training=False` (Keras 3.15)."""

    def __init__(self, model: keras.Model) -> None:
        super().__init__(name="inference")
        self.model = model

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        """Return the model's output in inference mode."""
        return self.model(inputs, training=False)


class FusedBatchNorm(layers.Layer):
    """Call a BatchNorm, in training by TensorFlow's fused kernel: Keras 3.15 goes through memory a dozen times."""

    def __init__(self, norm: layers.BatchNormalization) -> None:
        super().__init__(name=norm.name)
        self.norm = norm

    def call(self, inputs: tf.Tensor, training: bool = False, mask: None = None) -> tf.Tensor:
        """Normalise images, float32 (n, height, width, channels); statistics move as in Keras."""
        norm = self.norm
        if not (training and norm.trainable):
            return norm(inputs, training=False)
        ones = tf.ones(tf.shape(inputs)[-1:])
        scale, offset = norm.gamma if norm.scale else ones, norm.beta if norm.center else tf.zeros_like(ones)
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(inputs, scale, offset, epsilon=norm.epsilon)
        count = tf.cast(tf.reduce_prod(tf.shape(inputs)[:-1]), tf.float32)
        variance *= (count - 1) / count  # the kernel divides by one less than Keras does
        for moving, batch in ((norm.moving_mean, mean), (norm.moving_variance, variance)):
            assert moving is not None, "a backbone is built before it is cut"
            moving.assign(moving * norm.momentum + batch * (1 - norm.momentum))
        return outputs


@dataclass(frozen=True)
class Cut:
    """A classifier in parts that share its layers: `trainable(frozen[-1](... frozen[0](images)))` is `model(images)`.

    Attributes:
        frozen: models of the frozen part, each fed by the one before; empty when nothing is frozen.
        trainable: the rest; training it trains the classifier.
    """

    frozen: tuple[keras.Model, ...]
    trainable: keras.Model


def cut_model(model: keras.Model, batch_norm: Literal["frozen", "train"] = "frozen") -> Cut:
    """Cut a classifier at the last tensor on which every trainable layer depends, see `freeze_below`.

    The frozen part is cut once more at the backbone's default cut. So images pass the lower layers once: the head
    trains on activations that are computed from those on which fine-tuning starts.

    Args:
        model: from `build_model`.
        batch_norm: "frozen" keeps all of the backbone in inference mode. With "train", BatchNorm of its trainable
            layers normalises by the batch in training, and its statistics move.
    """
    backbone = get_backbone(model)
    pool, *head = model.layers[model.layers.index(backbone) + 1 :]
    top = len(backbone.layers) - 1
    first = next((index for index, layer in enumerate(backbone.layers) if layer.trainable_weights), None)
    last = top if first is None else find_cut(backbone, first)
    default = find_cut(backbone, find_layer(backbone, "auto"))
    frozen, source = list[keras.Model](), backbone.input
    inputs, x = model.input, model.get_layer("scale").output
    for cut in sorted({cut for cut in (default, last) if 0 < cut <= last}):
        at = backbone.layers[cut].output
        x = keras.Model(source, at, name=f"backbone_to_{cut}")(x, training=False)
        if cut == top:
            x = pool(x)
        frozen.append(keras.Model(inputs, x, name=f"to_{backbone.layers[cut].name}"))
        inputs = x = layers.Input(x.shape[1:], name="activations")
        source = at
    if last < top:
        upper = keras.Model(source, backbone.output, name="trainable_backbone")
        if batch_norm == "train":  # a clone shares all other layers, and the weights of these
            upper = keras.models.clone_model(upper, clone_function=_fuse)
        x = pool(upper(x) if batch_norm == "train" else Inference(upper)(x))
    for layer in head:
        x = layer(x)
    return Cut(tuple(frozen), keras.Model(inputs, x, name="trainable"))


def _fuse(layer: keras.Layer) -> keras.Layer:
    return FusedBatchNorm(layer) if isinstance(layer, layers.BatchNormalization) else layer


def find_cut(backbone: keras.Model, from_layer: int) -> int:
    """Return the index of the last layer before `from_layer` whose output is all that later layers need.

    Keras keeps the layers of a functional model in topological order, so this is the last layer after which only one
    tensor still has consumers; 0, the input, when there is no other.
    """
    waiting = Counter(id(tensor) for layer in backbone.layers for tensor in _inputs(layer))
    waiting[id(backbone.output)] += 1
    cut, pending = 0, set[int]()
    for index, layer in enumerate(backbone.layers[:from_layer]):
        waiting.subtract(id(tensor) for tensor in _inputs(layer))
        pending = {tensor for tensor in pending | {id(layer.output)} if waiting[tensor]}
        if pending == {id(layer.output)}:
            cut = index
    return cut


def _inputs(layer: keras.Layer) -> list[keras.KerasTensor]:
    if isinstance(layer, layers.InputLayer):
        return []
    return layer.input if isinstance(layer.input, list) else [layer.input]
