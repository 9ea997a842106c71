"""A probability belongs to its film, whatever films come with it."""

import keras
import numpy as np
import pytest

from pneumonia import activations
from pneumonia.model import build_model
from pneumonia.params import ModelParams
from pneumonia.predict import predict_probabilities

FILMS = np.random.default_rng(0).integers(0, 256, (7, 32, 32), dtype=np.uint8)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """Return a classifier whose head tells noise apart: its logits here have mean 0 and deviation 2."""
    model = build_model(ModelParams(backbone="tiny", weights="none", image_size=32, dropout=0.5))
    logits = np.asarray(model(FILMS[..., None]))
    kernel, _ = model.get_layer("logit").get_weights()
    factor = 2 / logits.std()
    model.get_layer("logit").set_weights([factor * kernel, -factor * logits.mean(keepdims=True)[0]])
    return model


def test_probabilities_are_the_sigmoid_of_the_models_logits(model: keras.Model):
    logits = np.asarray(model.predict(FILMS[..., None], verbose=0)).ravel()  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(predict_probabilities(model, FILMS), 1 / (1 + np.exp(-logits)), rtol=1e-3)


def test_there_is_one_probability_between_0_and_1_for_each_film(model: keras.Model):
    probabilities = predict_probabilities(model, FILMS)
    assert probabilities.shape == (7,)
    assert np.all((probabilities > 0) & (probabilities < 1))
    assert np.ptp(probabilities) > 0.5


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_the_batch_size_changes_nothing(model: keras.Model, monkeypatch: pytest.MonkeyPatch, batch_size: int):
    together = predict_probabilities(model, FILMS)
    monkeypatch.setattr(activations, "BATCH_SIZE", batch_size)
    np.testing.assert_allclose(predict_probabilities(model, FILMS), together, rtol=1e-3)


def test_probabilities_stand_in_the_order_of_the_films(model: keras.Model):
    order = np.random.default_rng(1).permutation(7)
    expected = predict_probabilities(model, FILMS)[order]
    np.testing.assert_allclose(predict_probabilities(model, FILMS[order]), expected, rtol=1e-3)


def test_dropout_is_off(model: keras.Model):
    np.testing.assert_array_equal(predict_probabilities(model, FILMS), predict_probabilities(model, FILMS))
