"""A classifier is cut so that its trainable part computes what the whole does, faster where it can."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from pneumonia.models.cut import FusedBatchNorm

IMAGES = np.random.default_rng(0).normal(3, 2, (4, 5, 5, 6)).astype(np.float32)


def build_norm(**options: Any) -> layers.BatchNormalization:
    """Build a BatchNorm whose weights and statistics are not the initial ones."""
    norm = layers.BatchNormalization(epsilon=1e-3, momentum=0.9, **options)
    norm.build(IMAGES.shape)
    norm.set_weights([np.linspace(0.5, 2, weight.shape[0]) for weight in norm.weights])
    return norm


def train(layer: Any, norm: layers.BatchNormalization) -> list[Any]:
    """Return output and gradients of a training step, and the statistics after it."""
    images = tf.constant(IMAGES)
    with tf.GradientTape() as tape:
        tape.watch(images)
        outputs = layer(images, training=True)
        loss = tf.reduce_sum(outputs**3)
    wanted = [images, *(weight.value for weight in norm.trainable_weights)]
    return [outputs, *tape.gradient(loss, wanted), *norm.get_weights()]


@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False}], ids=["both", "no scale", "no offset"])
def test_a_fused_batchnorm_trains_as_keras_does(options: dict[str, Any]):
    fused, plain = build_norm(**options), build_norm(**options)
    for ours, theirs in zip(train(FusedBatchNorm(fused), fused), train(plain, plain), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_fused_batchnorm_that_is_frozen_normalises_by_its_statistics_which_stay():
    norm = build_norm()
    norm.trainable, before = False, norm.get_weights()
    np.testing.assert_array_equal(FusedBatchNorm(norm)(IMAGES, training=True), norm(IMAGES, training=False))
    for after, weight in zip(norm.get_weights(), before, strict=True):
        np.testing.assert_array_equal(after, weight)
