"""Backbone and head, what of them is frozen, and where the frozen part can be cut off."""

import json
import math
import re
import shutil
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import keras
import numpy as np
from keras import layers

from pneumonia.backbones import build_backbone, find_backbone, find_image_size
from pneumonia.errors import InputError
from pneumonia.files import replacing
from pneumonia.params import ModelParams


def build_model(params: ModelParams) -> keras.Model:
    """Build the classifier: raw grey values in, the log odds of pneumonia out; its backbone is frozen.

    The model takes float32 or uint8 (n, side, side, 1), 0 to 255; scaling and the grey-to-RGB step lie inside it. Train
    the tail that `cut_model` returns: it keeps the backbone in inference mode, so that BatchNorm statistics never move.
    The output is (n, 1) whichever the head, one logit or two under a softmax: the probability is its sigmoid, and the
    loss binary cross-entropy from logits. Raises InputError as `build_backbone` does.
    """
    size = find_image_size(params)
    backbone = build_backbone(params)
    scale, offset = find_backbone(params.backbone).scale
    inputs = layers.Input((size, size, 1), name="film")
    x = layers.Concatenate(name="rgb")([inputs, inputs, inputs])
    x = layers.Rescaling(scale, offset, name="scale")(x)  # pyright: ignore[reportArgumentType]
    x = backbone(x, training=False)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dropout(params.dropout, name="dropout")(x)
    model = keras.Model(inputs, _append_head(x, params.head), name=f"{params.backbone}_classifier")
    if params.weights == "none":
        _settle_batch_norm(model)
    freeze_below(model, None)
    return model


def _settle_batch_norm(model: keras.Model) -> None:
    """Give BatchNorm the statistics of one batch of clouds, grey as films are.

    They never move later. Those a layer is made with, mean 0 and variance 1, are wrong for random weights: signals
    vanish or explode on their way through a deep backbone, and nothing can be trained (Mishkin & Matas 2016,
    arXiv:1511.06422, section 3).
    """
    clouds = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 1)).astype(np.float32)
    films = keras.ops.image.resize(clouds, model.input_shape[1:3])
    norms = [layer for layer in get_backbone(model).layers if isinstance(layer, layers.BatchNormalization)]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
    scaled = keras.Model(model.input, model.get_layer("scale").output)(films)
    get_backbone(model)(scaled, training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum


def _append_head(x: keras.KerasTensor, head: str) -> keras.KerasTensor:
    if head == "sigmoid":
        return layers.Dense(1, name="logit")(x)
    # softmax(z)[1] = sigmoid(z[1] - z[0]). The difference is a fixed layer of Keras' own: a saved model loads anywhere.
    difference: Any = keras.initializers.Constant([[-1.0], [1.0]])  # pyright: ignore[reportArgumentType]
    log_odds = layers.Dense(1, use_bias=False, kernel_initializer=difference, trainable=False, name="log_odds")
    return log_odds(layers.Dense(2, name="logits")(x))


def get_backbone(model: keras.Model) -> keras.Model:
    """Return the backbone inside a classifier."""
    return next(layer for layer in model.layers if isinstance(layer, keras.Model))


def count_parameters(model: keras.Model) -> tuple[int, int]:
    """Return how many numbers a model holds, and how many of them are trainable."""
    return model.count_params(), sum(math.prod(variable.shape) for variable in model.trainable_variables)


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
    """A classifier in parts that share its layers: `tail(prefixes[-1](... prefixes[0](films)))` is `model(films)`.

    Attributes:
        prefixes: the frozen part, each fed by the one before; empty when nothing is frozen.
        tail: the rest, its backbone in inference mode; training it trains the classifier.
    """

    prefixes: tuple[keras.Model, ...]
    tail: keras.Model


def cut_model(model: keras.Model, below: int | str = "auto") -> Cut:
    """Cut a classifier at the last tensor on which all that is trainable depends, see `freeze_below`.

    The frozen part is cut once more at the backbone's default cut, or below the layer `below` if that is lower: so all
    that is trained above, the head among it, starts from the same activations, and films pass the layers underneath
    once. What the model says does not depend on it.
    """
    backbone = get_backbone(model)
    pool, *head = model.layers[model.layers.index(backbone) + 1 :]
    top = len(backbone.layers) - 1
    first = next((index for index, layer in enumerate(backbone.layers) if layer.trainable_weights), None)
    last = top if first is None else find_cut(backbone, first)
    shared = min(find_cut(backbone, find_layer(backbone, layer)) for layer in ("auto", below))
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


def save_model(model: keras.Model, path: Path) -> None:
    """Save a model as .keras such that the same model gives the same bytes."""
    with replacing(path) as beside:
        model.save(beside)
        raw = beside.with_suffix(".raw")
        shutil.move(beside, raw)
        try:
            _normalise(raw, beside)
        finally:
            raw.unlink()


def _normalise(raw: Path, normal: Path) -> None:
    """Copy a .keras archive without the date of saving and the memory addresses that Keras writes into it."""
    with zipfile.ZipFile(raw) as source, zipfile.ZipFile(normal, "w") as target:
        for name in sorted(source.namelist()):
            content = source.read(name)
            if name == "metadata.json":
                content = json.dumps({"keras_version": json.loads(content)["keras_version"]}).encode()
            if name == "config.json":
                content = _renumber_objects(content)
            target.writestr(zipfile.ZipInfo(name), content)  # ZipInfo's own date is 1980-01-01


def _renumber_objects(config: bytes) -> bytes:
    seen: dict[bytes, int] = {}
    return re.sub(rb'(?<="shared_object_id": )\d+', lambda m: b"%d" % seen.setdefault(m[0], len(seen)), config)


def load_model(path: Path) -> keras.Model:
    """Load a model that `save_model` wrote, without its compilation.

    Raises:
        InputError: the file is damaged or no Keras model.
    """
    try:
        return cast(keras.Model, keras.saving.load_model(path, compile=False, safe_mode=True))
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} cannot be loaded: {error}.", expected="a .keras file of this project", remedy="dvc repro"
        ) from error
