"""A classifier returns log odds whichever head it has; two logits predict and learn as a softmax over them does."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from pneumonia.core.params import ModelParams
from pneumonia.models.classifier import build_model, count_parameters, load_model, save_model
from pneumonia.models.cut import cut_model, find_layer, freeze_below, get_backbone

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 1)).astype(np.float32)
LABELS = np.array([0, 1, 1, 0, 1, 1], np.float32)
FIXED = np.array([[-1.0], [1.0]], np.float32)


def build(head: Any, dropout: float = 0.0) -> keras.Model:
    params = ModelParams(backbone="tiny", weights="none", head=head, image_size=32, dropout=dropout)
    return build_model(params)


@pytest.fixture
def softmax() -> keras.Model:
    return build("softmax")


def expose_logits(model: keras.Model) -> keras.Model:
    """Return a model of both what the two logits are and what comes out."""
    return keras.Model(model.input, [model.get_layer("logits").output, model.output])


@pytest.mark.parametrize("head, trainable", [("sigmoid", 17), ("softmax", 34)])
def test_a_classifier_gives_one_number_and_trains_a_row_of_weights_for_each_logit(head: str, trainable: int):
    model = build(head)
    assert model.output_shape == (None, 1)
    assert count_parameters(model)[1] == trainable


def test_the_probability_is_that_of_the_softmax(softmax: keras.Model):
    logits, log_odds = expose_logits(softmax)(IMAGES)
    expected = np.asarray(keras.ops.softmax(logits))[:, 1:]
    np.testing.assert_allclose(np.asarray(keras.ops.sigmoid(log_odds)), expected, rtol=1e-6)


def test_loss_and_gradient_are_those_of_categorical_cross_entropy(softmax: keras.Model):
    both, variables = expose_logits(softmax), [variable.value for variable in softmax.trainable_variables]
    binary: Any
    categorical: Any
    with tf.GradientTape(persistent=True) as tape:
        logits, log_odds = both(IMAGES)
        categorical = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(LABELS, logits)
        binary = keras.losses.BinaryCrossentropy(from_logits=True)(LABELS[:, None], log_odds)
    np.testing.assert_allclose(binary, categorical, rtol=1e-6)
    for one, other in zip(tape.gradient(binary, variables), tape.gradient(categorical, variables), strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("head", ["sigmoid", "softmax"])
@pytest.mark.parametrize("from_layer", [None, "auto", "conv2", 0])
def test_the_trainable_part_after_the_frozen_ones_equals_the_whole_model(head: str, from_layer: int | str | None):
    model = build(head, dropout=0.5)
    freeze_below(model, None if from_layer is None else find_layer(get_backbone(model), from_layer))
    cut, x = cut_model(model), IMAGES
    for part in cut.frozen:
        x = part(x, training=False)
    np.testing.assert_allclose(cut.trainable(x, training=False), model(IMAGES, training=False), rtol=1e-4, atol=1e-5)
    assert count_parameters(cut.trainable)[1] == count_parameters(model)[1]


@pytest.mark.parametrize("from_layer", [None, 0])
def test_training_moves_the_logits_and_never_the_difference_taken_of_them(
    softmax: keras.Model, tmp_path: Path, from_layer: int | None
):
    freeze_below(softmax, from_layer)
    cut = cut_model(softmax)
    x = IMAGES if from_layer == 0 else np.asarray(cut.frozen[-1](cut.frozen[0](IMAGES)))
    before = softmax.get_layer("logits").get_weights()
    cut.trainable.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True))
    cut.trainable.fit(x, LABELS, epochs=2, verbose=0)  # pyright: ignore[reportArgumentType]
    save_model(softmax, tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    for model in (softmax, loaded):
        np.testing.assert_array_equal(model.get_layer("log_odds").get_weights(), [FIXED])
        assert not model.get_layer("log_odds").trainable
    assert np.abs(loaded.get_layer("logits").get_weights()[0] - before[0]).min() > 0


def test_a_saved_model_with_two_logits_loads_without_this_package(softmax: keras.Model, tmp_path: Path):
    save_model(softmax, tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", IMAGES)
    np.save(tmp_path / "expected.npy", np.asarray(softmax(IMAGES, training=False)))
    code = (
        "import sys, keras, numpy as np\n"
        "model = keras.saving.load_model('model.keras', safe_mode=True)\n"
        "said = np.asarray(model(np.load('images.npy'), training=False))\n"
        "np.testing.assert_allclose(said, np.load('expected.npy'), rtol=1e-6)\n"
        "assert 'pneumonia' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
