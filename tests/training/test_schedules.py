"""Learning rates follow the formulas of the papers, and `list_rates` lists what the optimiser uses."""

from collections.abc import Callable
from math import cos, floor, pi

import keras
import numpy as np
import pandas as pd
import pytest

from pneumonia.core.params import FitParams, Schedule
from pneumonia.training.schedules import build_optimizer, list_rates

HIGH, STEPS_PER_EPOCH = 1e-2, 8
PARAMS = FitParams(
    epochs=5, batch_size=8, learning_rate=HIGH, schedule="constant", cycle_epochs=1.5, base_share=0.25,
    monitor="val_loss", patience=None, label_smoothing=0.0, ema_momentum=None, seed=1,
)  # fmt: skip
TOTAL, CYCLE = 40, 12  # steps
LOW = 0.25 * HIGH
CYCLICAL: tuple[Schedule, ...] = ("triangular", "triangular2", "exp_range")


def build(schedule: Schedule, learning_rate: float = HIGH) -> keras.optimizers.Adam:
    return build_optimizer(PARAMS.model_copy(update={"schedule": schedule}), learning_rate, STEPS_PER_EPOCH)


def list_all(schedule: Schedule) -> pd.DataFrame:
    return list_rates(build(schedule), range(TOTAL))


def height(step: int) -> float:
    """Return where a step stands between lowest and highest, as Smith's listing computes it."""
    cycle = floor(1 + step / CYCLE)
    return max(0.0, 1 - abs(step / (CYCLE / 2) - 2 * cycle + 1))


def half_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + cos(pi * share)) / 2


def one_cycle(first: float, middle: float, last: float, step: int) -> float:
    if step < TOTAL / 4:
        return half_cosine(first, middle, step / (TOTAL / 4))
    return half_cosine(middle, last, (step - TOTAL / 4) / (0.75 * TOTAL))


FORMULAS: dict[Schedule, Callable[[int], float]] = {
    "constant": lambda step: HIGH,
    "cosine": lambda step: half_cosine(HIGH, 0.0, step / TOTAL),
    "triangular": lambda step: LOW + (HIGH - LOW) * height(step),
    "triangular2": lambda step: LOW + (HIGH - LOW) * height(step) / 2 ** (step // CYCLE),
    "exp_range": lambda step: LOW + (HIGH - LOW) * height(step) * 0.25 ** (step / TOTAL),
    "one_cycle": lambda step: one_cycle(HIGH / 25, HIGH, HIGH / 1e5, step),
}


@pytest.mark.parametrize("schedule", FORMULAS)
def test_a_schedule_follows_its_formula(schedule: Schedule):
    expected = [FORMULAS[schedule](step) for step in range(TOTAL)]
    np.testing.assert_allclose(list_all(schedule)["learning_rate"], expected, rtol=2e-5, atol=1e-9)


def test_momentum_of_one_cycle_falls_while_the_learning_rate_rises_and_rises_while_it_falls():
    table = list_all("one_cycle")
    expected = [one_cycle(0.95, 0.85, 0.95, step) for step in range(TOTAL)]
    np.testing.assert_allclose(table["momentum"], expected, rtol=1e-6)
    assert (np.sign(table["momentum"].diff()[1:]) == -np.sign(table["learning_rate"].diff()[1:])).all()


@pytest.mark.parametrize("schedule", FORMULAS)
def test_every_learning_rate_is_positive_and_none_exceeds_the_highest(schedule: Schedule):
    rates = list_all(schedule)["learning_rate"]
    assert (rates > 0).all()
    assert rates.max() <= HIGH * (1 + 1e-6)


@pytest.mark.parametrize("schedule", CYCLICAL)
def test_every_cycle_starts_from_the_lowest_learning_rate(schedule: Schedule):
    rates = list_all(schedule)["learning_rate"]
    assert rates.min() == pytest.approx(LOW)
    assert rates.iloc[::CYCLE].tolist() == pytest.approx([LOW] * 4)


@pytest.mark.parametrize("schedule", FORMULAS)
def test_the_learning_rate_moves_without_jumps(schedule: Schedule):
    fine = build_optimizer(PARAMS.model_copy(update={"schedule": schedule}), HIGH, 100 * STEPS_PER_EPOCH)
    rates = list_rates(fine, range(100 * TOTAL))["learning_rate"]
    assert rates.diff().abs().max() < 0.01 * HIGH


@pytest.mark.parametrize("schedule", CYCLICAL)
def test_a_cycle_shorter_than_two_steps_takes_two(schedule: Schedule):
    params = PARAMS.model_copy(update={"schedule": schedule, "cycle_epochs": 0.01})
    rates = list_rates(build_optimizer(params, HIGH, STEPS_PER_EPOCH), range(4))["learning_rate"]
    assert rates.iloc[1] > rates.iloc[0] == rates.iloc[2] < rates.iloc[3]


@pytest.mark.parametrize("schedule", FORMULAS)
def test_list_rates_lists_what_the_optimiser_uses(schedule: Schedule):
    optimizer, weight = build(schedule), keras.Variable([1.0])
    optimizer.build([weight])
    listed, gradient = list_all(schedule), keras.ops.convert_to_tensor([0.5])
    for step in range(15):
        assert float(optimizer.learning_rate) == pytest.approx(listed["learning_rate"][step + 1], rel=1e-6)
        optimizer.apply([gradient], [weight])


def test_steps_are_numbered_from_one_and_values_are_short():
    table = list_rates(build("constant", 5e-4), range(8, 11))
    assert table["learning_rate"].to_dict() == {9: 5e-4, 10: 5e-4, 11: 5e-4}


def test_one_cycle_adam_is_adam_with_the_momentum_of_each_step():
    optimizer, weight = build("one_cycle"), keras.Variable([1.0])
    optimizer.build([weight])
    table, rng = list_all("one_cycle"), np.random.default_rng(1)
    expected, first, second = 1.0, 0.0, 0.0
    for step, (rate, momentum) in enumerate(table.itertuples(index=False), 1):
        gradient = rng.normal()
        optimizer.apply([keras.ops.convert_to_tensor([gradient], "float32")], [weight])
        first += (1 - momentum) * (gradient - first)
        second += (1 - 0.999) * (gradient**2 - second)
        corrected = first / (1 - momentum**step), second / (1 - 0.999**step)
        expected -= rate * corrected[0] / (corrected[1] ** 0.5 + 1e-7)
    assert float(weight[0]) == pytest.approx(expected, rel=1e-4)
