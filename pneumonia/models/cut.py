"""Freeze the lower part of a classifier, and cut it off."""

from collections import Counter
from dataclasses import dataclass

import keras
from keras import layers

from pneumonia.core.errors import InputError
from pneumonia.models.backbones import find_backbone


def get_backbone(model: keras.Model) -> keras.Model:
    """Return the backbone inside a classifier."""
    return next(layer for layer in model.layers if isinstance(layer, keras.Model))


def find_layer(backbone: keras.Model, name: int | str) -> int:
    """Return the index of a backbone's layer; `auto` is the default of the backbone's row.

    Raises:
        InputError: there is no such layer.
    """
    wanted = find_backbone(backbone.name).from_layer if name == "auto" else name
    names = [layer.name for layer in backbone.layers]
    if isinstance(wanted, str) and wanted in names:
        return names.index(wanted)
    if isinstance(wanted, int) and 0 <= wanted < len(names):
        return wanted
    raise InputError(
        f"finetune.from_layer is {wanted!r}, which {backbone.name} does not have.",
        expected=f"an index below {len(names)}, auto, or a layer's name such as {names[-1]}",
        remedy="set finetune.from_layer",
    )


def freeze_below(model: keras.Model, from_layer: int | None) -> None:
    """Make backbone layers from `from_layer` on trainable and freeze those before; None freezes all."""
    for index, layer in enumerate(get_backbone(model).layers):
        layer.trainable = from_layer is not None and index >= from_layer


class Inference(layers.Layer):
    """Call a model in inference mode: `fit` on a model around it would override its `training=False` (Keras 3.15)."""

    def __init__(self, model: keras.Model) -> None:
        super().__init__(name="inference")
        self.model = model

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        """Return what the model says in inference mode."""
        return self.model(inputs, training=False)


@dataclass(frozen=True)
class Cut:
    """A classifier in parts that share its layers: `tail(prefixes[-1](... prefixes[0](images)))` is `model(images)`.

    Attributes:
        prefixes: the frozen part, each fed by the one before; empty when nothing is frozen.
        tail: the rest, its backbone in inference mode; training it trains the classifier.
    """

    prefixes: tuple[keras.Model, ...]
    tail: keras.Model


def cut_model(model: keras.Model) -> Cut:
    """Cut a classifier at the last tensor on which all that is trainable depends, see `freeze_below`.

    The frozen part is cut once more at the backbone's default cut, so that the head and all that is fine-tuned above
    start from the same activations, and images pass the layers underneath once. The model's output is the same.
    """
    backbone = get_backbone(model)
    pool, *head = model.layers[model.layers.index(backbone) + 1 :]
    top = len(backbone.layers) - 1
    first = next((index for index, layer in enumerate(backbone.layers) if layer.trainable_weights), None)
    last = top if first is None else find_cut(backbone, first)
    shared = find_cut(backbone, find_layer(backbone, "auto"))
    cuts = sorted({cut for cut in (shared, last) if 0 < cut <= last})
    prefixes, source = list[keras.Model](), backbone.input
    inputs, x = model.input, model.get_layer("scale").output
    for cut in cuts:
        at = backbone.layers[cut].output
        x = keras.Model(source, at, name=f"backbone_to_{cut}")(x, training=False)
        if cut == top:
            x = pool(x)
        prefixes.append(keras.Model(inputs, x, name=f"to_{backbone.layers[cut].name}"))
        inputs = x = layers.Input(x.shape[1:], name="activations")
        source = at
    if last < top:
        x = pool(Inference(keras.Model(source, backbone.output, name="backbone_tail"))(x))
    for layer in head:
        x = layer(x)
    return Cut(tuple(prefixes), keras.Model(inputs, x, name="tail"))


def find_cut(backbone: keras.Model, from_layer: int) -> int:
    """Return the index of the last layer before `from_layer` whose output is all that later layers need.

    Layers of a functional model stand in topological order, so it is the last one after which a single tensor
    still has consumers to come; 0, the input, when there is no other.
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
