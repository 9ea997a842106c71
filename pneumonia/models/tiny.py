"""A backbone small enough for tests that still has what makes freezing hard: BatchNorm and a residual."""

import keras
from keras import layers


def Tiny(include_top: bool, weights: str | None, input_shape: tuple[int, int, int], name: str) -> keras.Model:  # noqa: N802
    """Build the network as `keras.applications` would; `weights` must be None, and side / 8 is the output's side."""
    if include_top or weights:
        raise ValueError("the tiny backbone has neither a top nor trained weights")
    inputs = layers.Input(input_shape)
    x = layers.Conv2D(8, 3, 4, "same", name="conv1")(inputs)
    x = layers.ReLU(name="relu1")(layers.BatchNormalization(name="bn1")(x))
    y = layers.Conv2D(8, 3, 1, "same", name="conv2")(x)
    y = layers.Add(name="add2")([x, layers.BatchNormalization(name="bn2")(y)])
    y = layers.BatchNormalization(name="bn3")(layers.Conv2D(16, 3, 2, "same", name="conv3")(y))
    return keras.Model(inputs, layers.ReLU(name="relu3")(y), name=name)
