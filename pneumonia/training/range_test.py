"""Find a learning rate: raise it step by step and watch the loss fall, then rise.

Smith 2017, arXiv:1506.01186, section 3.3. Smoothing and end are those of fastai's `Learner.lr_find`
(fastai 2, fastai/callback/schedule.py).
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from pneumonia.core.params import FitParams
from pneumonia.training.batches import Batches, draw_epoch
from pneumonia.training.fit import build_loss
from pneumonia.training.schedules import list_rates
from pneumonia.training.suggestions import DTYPES, HIGHEST, LOWEST, STEPS, find_suggestion, suggest

SMOOTHING = 0.98  # of the exponential mean of the loss
DIVERGED = 4.0  # smoothed loss over its lowest so far


def choose_learning_rate(
    model: keras.Model, train: Batches, params: FitParams, class_weight: dict[int, float]
) -> tuple[float, pd.DataFrame]:
    """Return the learning rate of a phase, and the table of the range test that found it.

    Args:
        model: as for `fit`; its weights and other state stay the same, bit by bit.
        train: as for `fit`.
        params: learning_rate, a number or "auto"; seed.
        class_weight: as for `fit`.

    Returns:
        The rate, and the table as `suggest` returns it; without rows when `params` give a number.

    Raises:
        InputError: the learning rate is "auto", and the loss never falls.
    """
    if params.learning_rate != "auto":
        return params.learning_rate, pd.DataFrame(columns=list(DTYPES))
    table = suggest(run_range_test(model, train, params, class_weight))
    return find_suggestion(table, "valley"), table


def run_range_test(
    model: keras.Model, train: Batches, params: FitParams, class_weight: dict[int, float]
) -> pd.DataFrame:
    """Train for up to 100 steps, each at a higher learning rate, until the loss diverges; then restore the model.

    Args:
        model: as for `fit`.
        train: as for `fit`.
        params: label_smoothing; seed, of the order of images and of dropout.
        class_weight: as for `fit`.

    Returns:
        Columns log10_learning_rate, learning_rate (1e-7 to 10), loss (of the batch), smoothed; a row per step. A loss
        that is not finite ends the test and gets no row.
    """
    optimizer = keras.optimizers.Adam(
        keras.optimizers.schedules.ExponentialDecay(LOWEST, STEPS - 1, HIGHEST / LOWEST)  # pyright: ignore
    )
    optimizer.build(model.trainable_variables)
    before = [np.array(variable) for variable in model.variables]
    losses: list[float] = []
    smoothed: list[float] = []
    mean = 0.0
    take_step = _make_step(model, optimizer, build_loss(params), class_weight)
    for step in range(STEPS):
        epoch, batch = divmod(step, len(train))
        if batch == 0:
            train.rows = draw_epoch(model, len(train.y), train.views, params.seed, epoch)
        loss = float(take_step(*train[batch]))
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        now = mean / (1 - SMOOTHING ** (step + 1))
        if not np.isfinite(now):
            break
        losses.append(loss)
        smoothed.append(now)
        if now > DIVERGED * min(smoothed):
            break
    for variable, value in zip(model.variables, before, strict=True):
        variable.assign(value)
    rates = list_rates(optimizer, range(len(losses)))["learning_rate"].to_numpy()
    logarithm = np.log10(rates).round(4)
    return pd.DataFrame(dict(zip(DTYPES, (logarithm, rates, losses, smoothed), strict=False)))


def _make_step(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, loss: keras.losses.Loss, class_weight: dict[int, float]
) -> Callable[..., Any]:
    weights = tf.constant([class_weight[label] for label in (0, 1)], tf.float32)

    def take_step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            value: Any = loss(y, model(x, training=True), tf.gather(weights, tf.cast(y[:, 0], tf.int32)))
        optimizer.apply(tape.gradient(value, model.trainable_variables), model.trainable_variables)
        return value

    return tf.function(take_step, reduce_retracing=True)
