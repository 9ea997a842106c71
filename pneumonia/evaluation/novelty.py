"""Fit the detector of novel images to training and validation images."""

from dataclasses import replace
from math import floor
from typing import Any

import keras
import numpy as np
from keras import layers
from sklearn.covariance import LedoitWolf
from sklearn.preprocessing import StandardScaler

from pneumonia.core.dataset import Pixels, Split
from pneumonia.inference.novelty import Floats, Novelty, find_default_cut, join_features
from pneumonia.inference.scores import BATCH_SIZE
from pneumonia.models.activations import ActivationCache, run_batches
from pneumonia.models.cut import get_backbone

SHARE = 0.01  # of images like those of validation that may be called novel


def fit_novelty(train: Floats, val: Floats) -> Novelty:
    """Fit the detector to features of training and validation images, both of shape (n, d).

    The score is the Mahalanobis distance (Lee et al. 2018, arXiv:1807.03888, but with one mean: a mean per class
    detects no more) under the covariance of Ledoit & Wolf 2004, doi:10.1016/S0047-259X(03)00096-4, which is invertible
    however few images there are.

    The threshold is the floor(SHARE (n + 1))-th highest score of n validation images. An image exchangeable with them
    exceeds it with a probability of at most SHARE (Bates et al. 2023, arXiv:2104.08279: conformal p-values). With fewer
    than 1 / SHARE - 1 images it is their highest score, which such an image exceeds with a probability of 1 / (n + 1).
    """
    scaler: Any = StandardScaler().fit(train.astype(np.float64))
    spread = LedoitWolf(store_precision=False, assume_centered=True).fit(scaler.transform(train)).covariance_
    whitener = np.linalg.inv(np.linalg.cholesky(spread)).T / np.sqrt(len(spread)) / scaler.scale_[:, None]
    found = Novelty(scaler.mean_.astype(np.float32), whitener.astype(np.float32), np.inf)
    beyond = max(1, floor(SHARE * (len(val) + 1)))
    return replace(found, threshold=float(np.sort(found.score(val))[-beyond]))


def fit_images(model: keras.Model, train: Split, val: Split, cache: ActivationCache) -> Novelty:
    """Fit the detector to the training and validation images of a classifier, without variants or altered copies."""
    shown = train.images[:: train.views][~train.augmented]
    features = gather_features(model, np.concatenate([shown, val.images]), cache)
    return fit_novelty(features[: len(shown)], features[len(shown) :])


def gather_features(model: keras.Model, images: Pixels, cache: ActivationCache | None = None) -> Floats:
    """Return the features of images, see `join_features`.

    Args:
        model: a classifier.
        images: grey values 0 to 255, uint8 (n, side, side), side as the model expects.
        cache: its activations are read, and added to, where every layer below the cut is frozen.
    """
    backbone = get_backbone(model)
    x = keras.Model(backbone.input, find_default_cut(backbone))(model.get_layer("scale").output, training=False)
    stem, inputs = keras.Model(model.input, x), layers.Input(x.shape[1:])
    pool = keras.Model(inputs, layers.GlobalAveragePooling2D()(inputs), name="novelty")
    batch_size = cache.compute.batch_size if cache else BATCH_SIZE
    if cache and not stem.trainable_weights:
        batches = run_batches(pool, cache.read([stem], images), batch_size)
    else:
        batches = run_batches(keras.Model(model.input, pool(x), name="novelty"), images, batch_size)
    return join_features(np.concatenate([np.empty((0, x.shape[-1]), np.float32), *(b for _, b in batches)]), images)
