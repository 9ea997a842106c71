"""A probability belongs to its image, whatever images come with it and whatever is known of them already."""

import json
from pathlib import Path
from typing import Literal

import keras
import numpy as np
import pytest

from pneumonia.core.dataset import Pixels, Split
from pneumonia.core.errors import InputError
from pneumonia.core.params import CacheParams, ComputeParams, EvaluateParams, ModelParams
from pneumonia.evaluation.calibration import fit_temperature
from pneumonia.evaluation.thresholds import choose_operating_point, choose_threshold
from pneumonia.inference import scores
from pneumonia.inference.operating_point import OperatingPoint, calibrate
from pneumonia.inference.scores import predict_log_odds
from pneumonia.inference.scores import predict_probabilities as predict_at
from pneumonia.models.activations import ActivationCache
from pneumonia.models.classifier import build_model
from pneumonia.models.cut import freeze_below

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 32, 32), dtype=np.uint8)
CACHE = ActivationCache(ComputeParams(precision="float32", batch_size=4, threads="auto"), CacheParams(max_gb=1))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def predict_probabilities(
    model: keras.Model, images: Pixels, cache: ActivationCache | None = None, flip: bool = False
) -> np.ndarray:
    """Return probabilities as trained, before any calibration."""
    return calibrate(predict_log_odds(model, images, cache, flip), 1.0)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """Return a classifier whose head tells noise apart: its logits here have mean 0 and deviation 2."""
    model = build_model(ModelParams(backbone="tiny", weights="none", image_size=32, dropout=0.5, head="sigmoid"))
    logits = np.asarray(model(IMAGES[..., None]))
    kernel, _ = model.get_layer("logit").get_weights()
    factor = 2 / logits.std()
    model.get_layer("logit").set_weights([factor * kernel, -factor * logits.mean(keepdims=True)[0]])
    return model


def test_probabilities_are_the_sigmoid_of_the_models_logits(model: keras.Model):
    logits = np.asarray(model.predict(IMAGES[..., None], verbose=0)).ravel()  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(predict_probabilities(model, IMAGES), 1 / (1 + np.exp(-logits)), rtol=1e-3)


def test_there_is_one_probability_between_0_and_1_for_each_image(model: keras.Model):
    probabilities = predict_probabilities(model, IMAGES)
    assert probabilities.shape == (7,)
    assert np.all((probabilities > 0) & (probabilities < 1))
    assert np.ptp(probabilities) > 0.5


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_the_batch_size_changes_nothing(model: keras.Model, monkeypatch: pytest.MonkeyPatch, batch_size: int):
    together = predict_probabilities(model, IMAGES)
    monkeypatch.setattr(scores, "BATCH_SIZE", batch_size)
    np.testing.assert_allclose(predict_probabilities(model, IMAGES), together, rtol=1e-3)


def test_probabilities_stand_in_the_order_of_the_images(model: keras.Model):
    order = np.random.default_rng(1).permutation(7)
    expected = predict_probabilities(model, IMAGES)[order]
    np.testing.assert_allclose(predict_probabilities(model, IMAGES[order]), expected, rtol=1e-3)


def test_dropout_is_off(model: keras.Model):
    np.testing.assert_array_equal(predict_probabilities(model, IMAGES), predict_probabilities(model, IMAGES))


@pytest.mark.parametrize("from_layer", [None, 7, 4, 0])
def test_the_cache_changes_no_probability(model: keras.Model, from_layer: int | None):
    freeze_below(model, from_layer)
    plain = predict_probabilities(model, IMAGES)
    for _ in range(2):  # computed, then read
        np.testing.assert_allclose(predict_probabilities(model, IMAGES, CACHE), plain, rtol=0, atol=1e-6)


def test_without_a_cache_nothing_is_written_to_disk(model: keras.Model, here: Path):
    freeze_below(model, None)
    predict_probabilities(model, IMAGES)
    assert list(here.rglob("*")) == []


@pytest.mark.parametrize("from_layer", [None, 7, 0])
@pytest.mark.parametrize("cache", [None, CACHE], ids=["uncached", "cached"])
def test_no_images_have_no_probabilities(model: keras.Model, from_layer: int | None, cache: ActivationCache | None):
    freeze_below(model, from_layer)
    probabilities = predict_probabilities(model, IMAGES[:0], cache)
    assert (probabilities.shape, probabilities.dtype) == ((0,), np.float64)


@pytest.mark.parametrize("logit, probability", [(-1e3, 0.0), (-1e30, 0.0), (1e3, 1.0), (1e30, 1.0)])
def test_a_logit_beyond_what_exp_can_hold_is_0_or_1_without_a_warning(logit: float, probability: float):
    certain = build_model(ModelParams(backbone="tiny", weights="none", image_size=32, dropout=0.0, head="sigmoid"))
    kernel, _ = certain.get_layer("logit").get_weights()
    certain.get_layer("logit").set_weights([0 * kernel, np.array([logit])])
    np.testing.assert_array_equal(predict_probabilities(certain, IMAGES[:2]), [probability] * 2)


def log_odds(probabilities: np.ndarray) -> np.ndarray:
    return np.log(probabilities / (1 - probabilities))


each_cache = pytest.mark.parametrize("cache", [None, CACHE], ids=["uncached", "cached"])


@each_cache
def test_flipped_too_a_image_and_its_mirror_image_get_the_same_probability(
    model: keras.Model, cache: ActivationCache | None
):
    mirrored = IMAGES[..., ::-1]
    freeze_below(model, None)
    assert np.ptp(predict_probabilities(model, IMAGES) - predict_probabilities(model, mirrored)) > 0.01
    expected = predict_probabilities(model, IMAGES, cache, flip=True)
    np.testing.assert_allclose(predict_probabilities(model, mirrored, cache, flip=True), expected, rtol=1e-6)


@each_cache
def test_flipped_too_the_log_odds_are_the_mean_of_both(model: keras.Model, cache: ActivationCache | None):
    freeze_below(model, 7)
    both = [log_odds(predict_probabilities(model, images)) for images in (IMAGES, IMAGES[..., ::-1])]
    flipped = log_odds(predict_probabilities(model, IMAGES, cache, flip=True))
    np.testing.assert_allclose(flipped, np.mean(both, axis=0), rtol=0, atol=1e-5)
    assert predict_probabilities(model, IMAGES[:0], cache, flip=True).shape == (0,)


VAL = Split(IMAGES, np.array([0, 1, 0, 1, 1, 0, 1], np.uint8), np.full(7, "image.png"), np.zeros(7, bool))


PARAMS = EvaluateParams(threshold=0.3, sensitivity_floor=0.9, flip=False, heatmap="cam", resamples=100, seed=1)


def test_a_threshold_that_is_a_number_is_taken_as_it_is(model: keras.Model):
    point = choose_operating_point(model, VAL, PARAMS, CACHE)
    assert (point.threshold, point.rule, point.image_size) == (0.3, "fixed", 32)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("rule", ["youden", "f1", "sensitivity_floor"])
def test_temperature_and_threshold_follow_from_what_the_model_says_of_validation(
    model: keras.Model, rule: Literal["youden", "f1", "sensitivity_floor"], flip: bool
):
    log_odds = predict_log_odds(model, VAL.images, CACHE, flip)
    point = choose_operating_point(model, VAL, PARAMS.model_copy(update={"threshold": rule, "flip": flip}), CACHE)
    assert point.temperature == fit_temperature(VAL.labels, log_odds)
    assert point.threshold == choose_threshold(VAL.labels, calibrate(log_odds, point.temperature), rule, 0.9)
    assert point.rule == ("sensitivity_floor 0.9" if rule == "sensitivity_floor" else rule)


@pytest.mark.parametrize("flip", [False, True])
def test_a_model_is_used_at_its_operating_point(model: keras.Model, flip: bool):
    point = choose_operating_point(model, VAL, PARAMS.model_copy(update={"flip": flip}), CACHE)
    expected = calibrate(predict_log_odds(model, IMAGES, CACHE, flip), point.temperature)
    np.testing.assert_array_equal(predict_at(model, IMAGES, point, CACHE), expected)


def test_an_operating_point_survives_its_file(model: keras.Model, here: Path):
    point = choose_operating_point(model, VAL, PARAMS, CACHE)
    (here / "point.json").write_text(json.dumps(point.model_dump()))
    assert OperatingPoint.read(here / "point.json") == point


@pytest.mark.parametrize("content", ["", "{}", '{"threshold": 0.5}', "[1]", '{"temperature": -1}'])
def test_a_damaged_operating_point_is_an_error_in_three_parts(here: Path, content: str):
    (here / "point.json").write_text(content)
    with pytest.raises(InputError, match=r"point.json is no operating point.*\n  Expected: .*\n  Remedy: dvc repro"):
        OperatingPoint.read(here / "point.json")
