"""Learning rate, and for one cycle momentum, as functions of the optimiser's step.

They are part of the graph and depend on the optimiser's step count alone, which a resumed run restores.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from keras.optimizers.schedules import CosineDecay, LearningRateSchedule

from pneumonia.core.params import FitParams

# fastai's `fit_one_cycle`.
WARM_UP = 0.25  # share of all steps
START, END = 25, 1e5  # highest learning rate / first, highest / last
MOMENTUM = 0.95, 0.85, 0.95  # first, at the highest learning rate, last


class Cyclical(LearningRateSchedule):
    """Rise from lowest to highest and fall back, in straight lines, cycle after cycle.

    Smith 2017, "Cyclical Learning Rates for Training Neural Networks", arXiv:1506.01186, section 3.

    Args:
        highest: learning rate in the middle of the first cycle.
        lowest: learning rate at both ends of each cycle.
        cycle_steps: length of a cycle in steps; the paper's 2 * stepsize.
        shrink: share of the height that remains, given the number of the cycle from 0 and the cycles since step 0.
    """

    def __init__(self, highest: float, lowest: float, cycle_steps: int, shrink: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.highest, self.lowest, self.cycle_steps, self.shrink = highest, lowest, cycle_steps, shrink

    def __call__(self, step: Any) -> Any:
        """Return the learning rate at one step, from 0, or at each of several."""
        cycles = tf.cast(step, tf.float32) / self.cycle_steps
        number = tf.floor(cycles)
        height = 1 - tf.abs(2 * (cycles - number) - 1)
        return self.lowest + (self.highest - self.lowest) * height * self.shrink(number, cycles)


class OneCycle(LearningRateSchedule):
    """Go from `first` to `middle` in the first quarter of the steps, then to `last`, each along half a cosine.

    Smith 2018, "A disciplined approach to neural network hyper-parameters", arXiv:1803.09820, section 4; with cosines
    in place of straight lines, as fastai does.
    """

    def __init__(self, first: float, middle: float, last: float, steps: int) -> None:
        super().__init__()
        self.turn = WARM_UP * steps
        self.before = CosineDecay(first, self.turn, alpha=middle / first)
        self.after = CosineDecay(middle, steps - self.turn, alpha=last / middle)

    def __call__(self, step: Any) -> Any:
        """Return the value at one step, from 0, or at each of several."""
        step = tf.cast(step, tf.float32)
        return keras.ops.where(step < self.turn, self.before(step), self.after(step - self.turn))


class OneCycleAdam(keras.optimizers.Adam):
    """Adam whose momentum, beta_1, follows a schedule too, as PyTorch's OneCycleLR does to its Adam.

    As there, the bias correction raises the present beta_1 to the power of the step.
    """

    def __init__(self, learning_rate: LearningRateSchedule, momentum: LearningRateSchedule, **averaging: Any) -> None:
        super().__init__(learning_rate, **averaging)  # pyright: ignore[reportArgumentType]
        self.momentum = momentum

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Set beta_1 for this step, then update a variable."""
        self.beta_1 = self.momentum(self.iterations)
        super().update_step(gradient, variable, learning_rate)


def build_optimizer(params: FitParams, learning_rate: float, steps_per_epoch: int) -> keras.optimizers.Adam:
    """Build Adam with the schedule of a phase.

    Args:
        params: schedule, cycle_epochs, base_share, epochs, ema_momentum.
        learning_rate: the highest of the schedule, above 0.
        steps_per_epoch: optimiser steps in an epoch.
    """
    steps, momentum = params.epochs * steps_per_epoch, params.ema_momentum
    averaging: dict[str, Any] = {"use_ema": True, "ema_momentum": momentum} if momentum else {}
    if params.schedule == "one_cycle":
        rates = OneCycle(learning_rate / START, learning_rate, learning_rate / END, steps)
        return OneCycleAdam(rates, OneCycle(*MOMENTUM, steps), **averaging)
    if params.schedule == "constant":
        return keras.optimizers.Adam(learning_rate, **averaging)
    if params.schedule == "cosine":
        return keras.optimizers.Adam(CosineDecay(learning_rate, steps), **averaging)  # pyright: ignore[reportArgumentType]
    cycle_steps = max(2, round(params.cycle_epochs * steps_per_epoch))
    shrink: dict[str, Callable[[Any, Any], Any]] = {
        "triangular": lambda number, cycles: 1.0,
        "triangular2": lambda number, cycles: 0.5**number,
        # The paper leaves gamma open: here the height falls to base_share of itself within the training.
        "exp_range": lambda number, cycles: params.base_share ** (cycles * (cycle_steps / steps)),
    }
    rates = Cyclical(learning_rate, params.base_share * learning_rate, cycle_steps, shrink[params.schedule])
    return keras.optimizers.Adam(rates, **averaging)  # pyright: ignore[reportArgumentType]


def list_rates(optimizer: keras.optimizers.Optimizer, steps: range) -> pd.DataFrame:
    """Return the learning rate, and momentum if it is scheduled, that an optimiser uses in `steps`, counted from 0.

    Returns:
        Columns `learning_rate` and perhaps `momentum`, indexed by the step's number from 1. Values are the shortest
        decimals that round to the optimiser's float32.
    """
    followed = {"learning_rate": optimizer._learning_rate}
    if isinstance(optimizer, OneCycleAdam):
        followed["momentum"] = optimizer.momentum
    values = {name: np.asarray(rate(np.array(steps)) if callable(rate) else rate) for name, rate in followed.items()}
    columns = {name: [float(str(v)) for v in np.broadcast_to(value, len(steps))] for name, value in values.items()}
    return pd.DataFrame(columns, index=pd.RangeIndex(steps.start + 1, steps.stop + 1, name="step"))
