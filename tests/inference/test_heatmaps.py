"""A heat map shows where the evidence lies from which the log odds are computed."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression

from pneumonia.augment.build import read_split
from pneumonia.core.dataset import Split
from pneumonia.core.errors import InputError
from pneumonia.core.params import ModelParams
from pneumonia.inference.heatmaps import Method, explain, locate, locate_evidence
from pneumonia.models.classifier import build_model, load_model, save_model
from pneumonia.models.cut import cut_model
from pneumonia.records.scan import scan_images
from pneumonia.sources.phantom import draw_phantoms

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 48, 48), dtype=np.uint8)
each_method = pytest.mark.parametrize("method", ["grad_cam", "cam"])


def build(head: str = "sigmoid", backbone: str = "tiny", size: int = 48, weights: str = "none") -> keras.Model:
    keras.utils.set_random_seed(1)
    return build_model(ModelParams(backbone=backbone, weights=weights, image_size=size, dropout=0.5, head=head))  # pyright: ignore[reportArgumentType]


def build_hidden() -> keras.Model:
    """Return a classifier whose head is not linear."""
    model = build()
    x = layers.Dense(4, "relu")(model.get_layer("pool").output)
    return keras.Model(model.input, layers.Dense(1)(x))


def find_log_odds(model: keras.Model, images: Any) -> Any:
    return np.asarray(model(images[..., None]))[:, 0].astype(np.float64)


@pytest.fixture(scope="module", params=["sigmoid", "softmax"])
def model(request: pytest.FixtureRequest) -> keras.Model:
    """Return a classifier of each head whose biases are not zero."""
    model = build(request.param)
    dense = model.get_layer("logit" if request.param == "sigmoid" else "logits")
    kernel, bias = dense.get_weights()
    dense.set_weights([kernel, bias + np.linspace(0.3, 0.7, len(bias))])
    return model


@each_method
def test_the_sum_of_the_evidence_and_the_bias_is_the_log_odds(model: keras.Model, method: Method):
    head = keras.Model(model.get_layer("pool").output, model.output)
    bias = float(np.asarray(head(np.zeros((1, 16)))).item())
    evidence = locate_evidence(model, IMAGES, method)
    np.testing.assert_allclose(evidence.sum(axis=(1, 2)) + bias, find_log_odds(model, IMAGES), rtol=0, atol=1e-5)


def test_after_pooling_and_linear_layers_grad_cam_is_the_class_activation_map(model: keras.Model):
    cam, grad_cam = (locate_evidence(model, IMAGES, method) for method in ("cam", "grad_cam"))
    np.testing.assert_allclose(grad_cam, cam, rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(explain(model, IMAGES, "grad_cam"), explain(model, IMAGES, "cam"), atol=1e-4)


def test_grad_cam_weighs_by_the_slope_of_the_log_odds():
    """The head is not linear here; its slopes are measured by central differences."""
    model = build_hidden()
    pooled = keras.Model(model.input, model.get_layer("pool").output)(IMAGES[..., None])
    head = keras.Model(model.get_layer("pool").output, model.output)
    step = 1e-3
    slopes = [
        (np.asarray(head(pooled + step * unit)) - np.asarray(head(pooled - step * unit)))[:, 0] / (2 * step)
        for unit in np.eye(16, dtype=np.float32)
    ]
    maps = np.asarray(keras.Model(model.input, model.get_layer("pool").input)(IMAGES[..., None]))
    expected = np.einsum("nhwc,cn->nhw", maps, np.array(slopes)) / np.prod(maps.shape[1:3])
    np.testing.assert_allclose(locate_evidence(model, IMAGES, "grad_cam"), expected, rtol=0, atol=1e-4)


def test_a_class_activation_map_of_a_head_that_is_not_linear_is_refused():
    with pytest.raises(InputError, match=r"(?s)head of GlobalAveragePooling2D.*Expected.*linear.*Remedy.*grad_cam"):
        explain(build_hidden(), IMAGES, "cam")


@each_method
def test_maps_are_as_large_as_the_image_and_reach_1_where_the_evidence_is_highest(model: keras.Model, method: Method):
    maps = explain(model, IMAGES, method)
    assert (maps.shape, maps.dtype) == (IMAGES.shape, np.float32)
    assert maps.min() >= 0
    positive = locate_evidence(model, IMAGES, method).max(axis=(1, 2)) > 0
    np.testing.assert_array_equal(maps.max(axis=(1, 2)), positive)


@each_method
def test_an_image_without_positive_evidence_is_0_everywhere(method: Method):
    model = build()
    kernel, bias = model.get_layer("logit").get_weights()
    model.get_layer("logit").set_weights([-np.abs(kernel), bias])  # what is pooled is never negative
    assert not explain(model, IMAGES, method).any()


@each_method
def test_the_batch_size_changes_nothing(model: keras.Model, method: Method):
    one, all_at_once = (explain(model, IMAGES, method, batch_size) for batch_size in (1, 5))
    np.testing.assert_allclose(explain(model, IMAGES, method, 3), all_at_once, atol=1e-5)
    np.testing.assert_allclose(one, all_at_once, atol=1e-5)


@each_method
def test_no_images_have_no_maps(model: keras.Model, method: Method):
    assert explain(model, IMAGES[:0], method).shape == (0, 48, 48)


@each_method
def test_explaining_changes_no_weight(model: keras.Model, method: Method):
    before = model.get_weights()
    explain(model, IMAGES, method)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_a_model_is_explained_as_before_when_it_is_saved_and_loaded(tmp_path: Path):
    model = build("softmax")
    save_model(model, tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(explain(loaded, IMAGES, "grad_cam"), explain(model, IMAGES, "cam"), atol=1e-4)


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "inception_v3"])
def test_every_backbone_is_explained_also_when_it_is_cut(backbone: str):
    model, images = build("softmax", backbone, 96), np.tile(IMAGES[:2], (1, 2, 2))
    expected = explain(model, images, "cam", batch_size=2)
    cut_model(model)
    np.testing.assert_allclose(explain(model, images, "grad_cam", batch_size=2), expected, atol=1e-4)


def test_the_map_lies_on_what_the_model_was_trained_to_see():
    """Half of the images have a bright square, each somewhere else; a head is fitted to tell them from the rest."""
    rng = np.random.default_rng(0)
    images = rng.integers(60, 100, (64, 48, 48), dtype=np.uint8)
    corners = rng.integers(0, 36, (32, 2))
    for image, (y, x) in zip(images[:32], corners, strict=True):
        image[y : y + 12, x : x + 12] = 250
    model = build()
    fit_head(model, images, np.repeat([1, 0], 32))
    maps = explain(model, images[:32], "grad_cam")
    inside = [m[y : y + 12, x : x + 12].mean() for m, (y, x) in zip(maps, corners, strict=True)]
    assert np.median(inside / maps.mean(axis=(1, 2))) > 3


def fit_head(model: keras.Model, images: Any, labels: Any) -> None:
    """Train a head by logistic regression on what is pooled of the backbone's output."""
    pooled = np.asarray(keras.Model(model.input, model.get_layer("pool").output)(images[..., None]))
    scale = pooled.std(axis=0) + 1e-6
    fitted = LogisticRegression(C=0.01, max_iter=500).fit(pooled / scale, labels)
    model.get_layer("logit").set_weights([fitted.coef_.T / scale[:, None], fitted.intercept_])


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Split:
    raw = tmp_path_factory.mktemp("raw")
    draw_phantoms(raw, 120, seed=1)
    return read_split(scan_images(raw)[0], raw, 128)


def correlate(a: Any, b: Any) -> float:
    """Return the median over images of how alike two maps rank their places, whichever is turned round, 0 to 1."""
    pairs = zip(a, b, strict=True)
    return float(np.median([abs(spearmanr(x.ravel(), y.ravel()).statistic) for x, y in pairs]))  # pyright: ignore


def test_a_map_shows_what_was_learnt_and_loses_it_with_the_weights(phantoms: Split):
    """The randomisation check of Adebayo et al. 2018, arXiv:1810.03292.

    Measured: 0.81 between heads of disjoint images; 0.12 to 0.51, median 0.21, for 14 seeds of random weights, since
    every image is laid out alike.
    """
    images = phantoms.images[:24, ..., None]
    model, untrained = (build("sigmoid", "efficientnet_lite0", 128, weights) for weights in ("imagenet", "none"))
    evidence = locate(model, "grad_cam")
    fit_head(model, phantoms.images[1::2], phantoms.labels[1::2])
    taught_by_others = np.asarray(evidence(images))
    fit_head(model, phantoms.images[::2], phantoms.labels[::2])
    taught, random = np.asarray(evidence(images)), np.asarray(locate(untrained, "grad_cam")(images))
    assert correlate(taught, np.asarray(evidence(images))) == pytest.approx(1)
    assert correlate(taught, taught_by_others) > 0.7
    assert correlate(taught, random) < 0.6
