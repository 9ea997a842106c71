"""Build, save and load a classifier: backbone and head."""

import json
import math
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any, cast

import keras
import numpy as np
from keras import layers

from pneumonia.core.errors import InputError
from pneumonia.core.files import replacing
from pneumonia.core.params import ModelParams
from pneumonia.models.archive import check_archive
from pneumonia.models.backbones import build_backbone, find_backbone, find_image_size
from pneumonia.models.cut import freeze_below, get_backbone

# Most bytes of each member of a .keras file: ten times the configuration of the deepest backbone and more, and 2 GiB.
_MEMBERS = {"metadata.json": 1 << 16, "config.json": 1 << 24, "model.weights.h5": 1 << 31}


def build_model(params: ModelParams) -> keras.Model:
    """Build the classifier, its backbone frozen: raw grey values in, the log odds of pneumonia out.

    The model takes float32 or uint8 (n, side, side, 1), 0 to 255, and scales them itself. It returns (n, 1) with either
    head, one logit or two under a softmax: the sigmoid is the probability, the loss binary cross-entropy from logits.
    Train `Cut.trainable` of `cut_model`: it decides whether BatchNorm statistics move. Here they never do.

    Raises:
        InputError: as `build_backbone`.
    """
    size = find_image_size(params)
    backbone = build_backbone(params)
    scale, offset = find_backbone(params.backbone).scale
    inputs = layers.Input((size, size, 1), name="image")
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
    """Set BatchNorm's statistics from one batch of grey clouds: those of frozen layers never move later.

    The initial ones, mean 0 and variance 1, are wrong for random weights: signals vanish or explode in a deep
    backbone, and nothing can be trained (Mishkin & Matas 2016, arXiv:1511.06422, section 3).
    """
    clouds = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 1)).astype(np.float32)
    images = keras.ops.image.resize(clouds, model.input_shape[1:3])
    norms = [layer for layer in get_backbone(model).layers if isinstance(layer, layers.BatchNormalization)]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
    scaled = keras.Model(model.input, model.get_layer("scale").output)(images)
    get_backbone(model)(scaled, training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum


def _append_head(x: keras.KerasTensor, head: str) -> keras.KerasTensor:
    if head == "sigmoid":
        return layers.Dense(1, name="logit")(x)
    # softmax(z)[1] = sigmoid(z[1] - z[0]). The difference is a fixed Keras layer, so a saved model loads anywhere.
    difference: Any = keras.initializers.Constant([[-1.0], [1.0]])  # pyright: ignore[reportArgumentType]
    log_odds = layers.Dense(1, use_bias=False, kernel_initializer=difference, trainable=False, name="log_odds")
    return log_odds(layers.Dense(2, name="logits")(x))


def count_parameters(model: keras.Model) -> tuple[int, int]:
    """Return the number of a model's parameters, and how many of them are trainable."""
    return model.count_params(), sum(math.prod(variable.shape) for variable in model.trainable_variables)


def save_model(model: keras.Model, path: Path) -> None:
    """Save a model as .keras; the same model gives the same bytes."""
    with replacing(path) as beside:
        model.save(beside)
        raw = beside.with_suffix(".raw")
        shutil.move(beside, raw)
        try:
            _normalise(raw, beside)
        finally:
            raw.unlink()


def _normalise(raw: Path, normal: Path) -> None:
    """Copy a .keras archive without the dates and memory addresses that Keras writes into it."""
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
    """Load a model that `save_model` wrote; it is not compiled.

    Raises:
        InputError: the file is missing, damaged, too large, not a Keras model, or holds weights that are not finite.
    """
    try:
        check_archive(path, _MEMBERS)
        model = cast(keras.Model, keras.saving.load_model(path, compile=False, safe_mode=True))
        if not all(np.isfinite(weight).all() for weight in model.get_weights()):
            raise ValueError("a weight is not finite")
        return model
    except Exception as error:  # a damaged configuration may raise anything
        raise InputError(
            f"{path} cannot be loaded: {error}.", expected="a .keras file of this project", remedy="dvc repro"
        ) from error
