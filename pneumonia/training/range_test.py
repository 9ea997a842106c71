"""Find a learning rate: raise it step by step and watch the loss fall, then rise.

Smith 2017, arXiv:1506.01186, section 3.3. Smoothing, end and suggestions are those of fastai's `Learner.lr_find`
(fastai 2, fastai/callback/schedule.py).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd
import tensorflow as tf
from matplotlib.figure import Figure

from pneumonia.core.errors import InputError
from pneumonia.core.params import FitParams
from pneumonia.core.tables import read_table
from pneumonia.training.batches import Batches, draw_epoch
from pneumonia.training.fit import LOSS
from pneumonia.training.schedules import list_rates

LOWEST, HIGHEST, STEPS = 1e-7, 10.0, 100
SMOOTHING = 0.98  # of the exponential mean of the loss
DIVERGED = 4.0  # smoothed loss over its lowest so far
# Steps at either end in which fastai looks for no suggestion.
SKIPPED_FIRST, SKIPPED_LAST = STEPS // 10, 5
DTYPES = {
    "log10_learning_rate": "float64",
    "learning_rate": "float64",
    "loss": "float64",
    "smoothed": "float64",
    "suggestion": "str",
}


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
    table = suggest(run_range_test(model, train, params.seed, class_weight))
    return find_suggestion(table, "valley"), table


def run_range_test(model: keras.Model, train: Batches, seed: int, class_weight: dict[int, float]) -> pd.DataFrame:
    """Train for up to 100 steps, each at a higher learning rate, until the loss diverges; then restore the model.

    Args:
        model: as for `fit`.
        train: as for `fit`.
        seed: of the order of images and of dropout.
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
    take_step = _make_step(model, optimizer, class_weight)
    for step in range(STEPS):
        epoch, batch = divmod(step, len(train))
        if batch == 0:
            train.rows = draw_epoch(model, len(train.y), train.views, seed, epoch)
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
    model: keras.Model, optimizer: keras.optimizers.Optimizer, class_weight: dict[int, float]
) -> Callable[..., Any]:
    weights = tf.constant([class_weight[label] for label in (0, 1)], tf.float32)

    def take_step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss: Any = LOSS(y, model(x, training=True), tf.gather(weights, tf.cast(y[:, 0], tf.int32)))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    return tf.function(take_step, reduce_retracing=True)


def suggest(curve: pd.DataFrame) -> pd.DataFrame:
    """Add the column `suggestion` to a range test: where fastai's `steep` and `valley` point.

    `steepest` is where the smoothed loss falls fastest over the logarithm of the learning rate. `valley` is the middle
    of the longest series of ever lower smoothed losses, other losses between them allowed.

    Args:
        curve: from `run_range_test`.

    Returns:
        The same table. `suggestion` holds "steepest", "valley", both or "".

    Raises:
        InputError: the smoothed loss never falls below its first value.
    """
    searched = slice(SKIPPED_FIRST, -SKIPPED_LAST)
    smoothed = curve["smoothed"].to_numpy()[searched]
    if not len(smoothed) or smoothed.min() >= smoothed[0]:
        raise InputError(
            f"The range test finds no learning rate from {LOWEST:g} to {HIGHEST:g} at which the loss falls.",
            expected="a loss that falls before it diverges",
            remedy="set learning_rate of this phase (train or finetune) to a number",
        )
    logarithm = np.log(curve["learning_rate"].to_numpy()[searched])
    found = {"steepest": int(np.argmin(np.diff(smoothed) / np.diff(logarithm))), "valley": _find_valley(smoothed)}
    rows = {name: SKIPPED_FIRST + row for name, row in found.items()}
    names = [" ".join(name for name in rows if rows[name] == row) for row in range(len(curve))]
    return curve.assign(suggestion=names)


def _find_valley(losses: npt.NDArray[np.float64]) -> int:
    length = np.ones(len(losses), int)  # of the longest falling series that ends here
    for row in range(1, len(losses)):
        length[row] += length[:row][losses[:row] > losses[row]].max(initial=0)
    end = int(length.argmax())
    longest = int(length[end])
    # fastai's rounding. For a fall of the first two losses only it arrives at -1: Python's last, the highest rate.
    return max(0, end - longest + longest // 3 + longest // 6)


def find_suggestion(table: pd.DataFrame, name: str) -> float:
    """Return the learning rate that "steepest" or "valley" suggests."""
    return float(table.loc[table["suggestion"].str.contains(name), "learning_rate"].iloc[0])


def read_range_test(path: Path) -> pd.DataFrame:
    """Read the table of a range test; it has no rows when there was no test.

    Raises:
        InputError: the file is not such a table.
    """
    return read_table(path, DTYPES)


def draw_range_test(table: pd.DataFrame, notice: str) -> Figure:
    """Draw the loss over the learning rate, with a mark at each suggestion and `notice` below."""
    figure = Figure((8, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot(table["learning_rate"], table["loss"], ".", color="lightgrey", label="loss of a batch")
    axes.plot(table["learning_rate"], table["smoothed"], label="smoothed")
    for name, colour in (("steepest", "tab:orange"), ("valley", "tab:green")):
        rate = find_suggestion(table, name)
        height = table.loc[table["learning_rate"] == rate, "smoothed"]
        axes.plot([rate], height, "o", color=colour, label=f"{name}: {rate:.2g}")
    axes.set(xscale="log", xlabel="Learning rate", ylabel="Loss", title="Learning-rate range test")
    # A diverging batch would flatten the rest.
    axes.set_ylim(0, 1.5 * float(table["smoothed"].iloc[SKIPPED_FIRST:].max()))
    axes.legend()
    if notice:
        figure.supxlabel(notice, fontsize="medium", color="firebrick")
    return figure
