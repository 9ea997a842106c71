"""An image's score depends on the image alone, whatever is scored with it and whatever is cached."""

from pathlib import Path

import keras
import numpy as np
import pytest

from pneumonia.core.params import CacheParams, ComputeParams, ModelParams
from pneumonia.inference import scores
from pneumonia.inference.scores import score_images, score_with
from pneumonia.models.activations import ActivationCache
from pneumonia.models.classifier import build_model
from pneumonia.models.cut import freeze_below

IMAGES = np.random.default_rng(0).integers(0, 256, (23, 32, 32), dtype=np.uint8)
MIRRORED = IMAGES[..., ::-1]
CACHE = ActivationCache(ComputeParams(precision="float32", batch_size=16, threads="auto"), CacheParams(max_gb=1))
each_cache = pytest.mark.parametrize("cache", [None, CACHE], ids=["uncached", "cached"])


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """Return a classifier whose log odds of IMAGES have mean 0 and deviation 2."""
    model = build_model(ModelParams(backbone="tiny", weights="none", image_size=32, dropout=0.5, head="sigmoid"))
    logits = np.asarray(model(IMAGES[..., None]))
    kernel, _ = model.get_layer("logit").get_weights()
    factor = 2 / logits.std()
    model.get_layer("logit").set_weights([factor * kernel, -factor * logits.mean(keepdims=True)[0]])
    return model


def test_scores_are_the_models_logits_with_dropout_off(model: keras.Model):
    logits = np.asarray(model.predict(IMAGES[..., None], verbose=0)).ravel()  # pyright: ignore[reportArgumentType]
    found = score_images(model, IMAGES)
    assert (found.shape, found.dtype) == ((len(IMAGES),), np.float64)
    np.testing.assert_allclose(found, logits, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(score_images(model, IMAGES), found)


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_the_batch_size_changes_no_score(model: keras.Model, monkeypatch: pytest.MonkeyPatch, batch_size: int):
    together = score_images(model, IMAGES)
    monkeypatch.setattr(scores, "BATCH_SIZE", batch_size)
    np.testing.assert_allclose(score_images(model, IMAGES), together, rtol=0, atol=1e-5)


def test_scores_stand_in_the_order_of_the_images(model: keras.Model):
    order = np.random.default_rng(1).permutation(len(IMAGES))
    expected = score_images(model, IMAGES)[order]
    np.testing.assert_allclose(score_images(model, IMAGES[order]), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("from_layer", [None, 7, 4, 0])
def test_the_cache_changes_no_score(model: keras.Model, from_layer: int | None, flip: bool):
    freeze_below(model, from_layer)
    plain = score_images(model, IMAGES, flip=flip)
    for _ in range(2):  # computed, then read
        np.testing.assert_allclose(score_images(model, IMAGES, CACHE, flip), plain, rtol=0, atol=1e-5)


def test_without_a_cache_nothing_is_written_to_disk(model: keras.Model, here: Path):
    freeze_below(model, None)
    score_images(model, IMAGES)
    assert list(here.rglob("*")) == []


@each_cache
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("from_layer", [None, 7, 0])
def test_no_images_have_no_scores(
    model: keras.Model, from_layer: int | None, flip: bool, cache: ActivationCache | None
):
    freeze_below(model, from_layer)
    found = score_images(model, IMAGES[:0], cache, flip)
    assert (found.shape, found.dtype) == ((0,), np.float64)


@each_cache
def test_with_flips_an_image_and_its_mirror_image_have_the_mean_score_of_both(
    model: keras.Model, cache: ActivationCache | None
):
    freeze_below(model, 7)
    one, other = (score_images(model, images) for images in (IMAGES, MIRRORED))
    assert np.abs(one - other).max() > 0.01
    for images in (IMAGES, MIRRORED):
        found = score_images(model, images, cache, flip=True)
        np.testing.assert_allclose(found, (one + other) / 2, rtol=0, atol=1e-5)


def test_what_else_a_forward_pass_returns_is_that_of_the_image_as_it_is():
    """Log odds of such a pass are the mean of an image, what follows is its first and its last pixel."""

    def forward(images: np.ndarray) -> np.ndarray:
        return np.stack([images.mean(axis=(1, 2)), images[:, 0, 0], images[:, -1, -1]], axis=1).astype(np.float32)

    for flip in (False, True):
        log_odds, extra = score_with(forward, IMAGES, flip)
        np.testing.assert_allclose(log_odds, IMAGES.mean(axis=(1, 2)), rtol=1e-6)
        np.testing.assert_array_equal(extra, forward(IMAGES)[:, 1:])
