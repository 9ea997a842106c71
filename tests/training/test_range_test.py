"""The range test finds where the loss falls, leaves the model unchanged, and refuses when the loss never falls."""

from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

from pneumonia.core.errors import InputError
from pneumonia.core.params import FitParams
from pneumonia.core.tables import write_table
from pneumonia.training.batches import Batches
from pneumonia.training.fit import make_deterministic
from pneumonia.training.range_test import choose_learning_rate, run_range_test
from pneumonia.training.suggestions import STEPS, draw_range_test, find_suggestion, read_range_test, suggest

EQUAL = {0: 1.0, 1: 1.0}
AUTO = FitParams(
    epochs=1, batch_size=8, learning_rate="auto", schedule="constant", cycle_epochs=1, base_share=1,
    monitor="val_loss", patience=None, label_smoothing=0.0, ema_momentum=None, seed=1,
)  # fmt: skip


def make_images() -> Batches:
    """Draw 20 points in batches of 8, the last one smaller, that a line divides."""
    rng = np.random.default_rng(1)
    labels = np.arange(20) % 2
    return Batches(rng.normal(size=(20, 4)).astype(np.float32) + labels[:, None], labels, 8)


def build() -> keras.Model:
    """Build a model with all that training moves: weights, BatchNorm statistics, a seed generator."""
    make_deterministic(1)
    layers = keras.layers
    return keras.Sequential([layers.Input((4,)), layers.BatchNormalization(), layers.Dropout(0.2), layers.Dense(1)])


def read_bytes(model: keras.Model) -> list[bytes]:
    return [np.array(variable).tobytes() for variable in model.variables]


def make_curve(smoothed: list[float]) -> pd.DataFrame:
    rates = np.geomspace(1e-7, 10, STEPS)[: len(smoothed)]
    return pd.DataFrame({"learning_rate": rates, "loss": smoothed, "smoothed": smoothed})


def smooth_slowly(losses: pd.Series) -> list[float]:
    """Return the mean of all losses so far, each weighing 0.98 of the next."""
    weights = [0.98 ** np.arange(n)[::-1] for n in range(1, len(losses) + 1)]
    return [float(np.average(losses[: len(weight)], weights=weight)) for weight in weights]


def test_the_learning_rate_rises_evenly_on_a_logarithmic_scale():
    table = run_range_test(build(), make_images(), AUTO, EQUAL)
    assert table["learning_rate"].iloc[0] == pytest.approx(1e-7)
    np.testing.assert_allclose(np.diff(np.log10(table["learning_rate"])), 8 / (STEPS - 1), rtol=1e-4)
    np.testing.assert_allclose(table["log10_learning_rate"], np.log10(table["learning_rate"]), atol=1e-4)


def test_the_loss_is_smoothed_without_a_bias_towards_zero():
    table = run_range_test(build(), make_images(), AUTO, EQUAL)
    np.testing.assert_allclose(table["smoothed"], smooth_slowly(table["loss"]))


def test_the_model_stays_the_same_bit_by_bit():
    model = build()
    before = read_bytes(model)
    run_range_test(model, make_images(), AUTO, EQUAL)
    assert read_bytes(model) == before


def test_the_same_seed_gives_the_same_curve_and_another_one_another():
    one, same, other = (
        run_range_test(build(), make_images(), AUTO.model_copy(update={"seed": seed}), EQUAL) for seed in (1, 1, 2)
    )
    pd.testing.assert_frame_equal(one, same, check_exact=True)
    assert one["loss"].tolist() != other["loss"].tolist()


def test_class_weights_multiply_the_loss():
    once = run_range_test(build(), make_images(), AUTO, EQUAL)
    twice = run_range_test(build(), make_images(), AUTO, {0: 2.0, 1: 2.0})
    assert twice["loss"][0] == pytest.approx(2 * once["loss"][0])


def test_it_stops_once_the_loss_diverges():
    images = make_images()
    images.x *= 1e3  # pyright: ignore
    table = run_range_test(build(), images, AUTO, EQUAL)
    assert len(table) < STEPS
    assert table["smoothed"].iloc[-1] > 4 * table["smoothed"].min()
    assert (table["smoothed"].iloc[:-1] <= 4 * table["smoothed"].cummin().iloc[:-1]).all()


def test_a_loss_that_is_not_finite_ends_the_test_and_gets_no_row():
    images = make_images()
    images.x[:, 0] = np.inf  # pyright: ignore
    assert run_range_test(build(), images, AUTO, EQUAL).empty


def transcribe_valley(losses: list[float]) -> int:
    """Return the index of `valley` as published: fastai/fastai, fastai/callback/schedule.py, commit 0a049e8."""
    n = len(losses)
    max_start, max_end = 0, 0
    lds = [1] * n
    for i in range(1, n):
        for j in range(i):
            if (losses[i] < losses[j]) and (lds[i] < lds[j] + 1):
                lds[i] = lds[j] + 1
            if lds[max_end] < lds[i]:
                max_end = i
                max_start = max_end - lds[max_end]
    sections = (max_end - max_start) / 3
    return max_start + int(sections) + int(sections / 2)


def transcribe_steep(rates: np.ndarray, losses: np.ndarray) -> int:
    """Return the index of `steep`, from the same file."""
    return int(((losses[1:] - losses[:-1]) / (np.log(rates[1:]) - np.log(rates[:-1]))).argmin())


def draw_curve(seed: int) -> pd.DataFrame:
    """Draw a curve that wanders, falls or diverges, of any length that a range test may have."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(rng.choice([-0.02, 0.0, 0.02]), 0.05, rng.integers(17, STEPS + 1))
    return make_curve(np.exp(steps.cumsum()).round(rng.choice([1, 2, 6])).tolist())


@pytest.mark.parametrize("seed", range(60))
def test_suggestions_are_those_of_fastais_published_code(seed: int):
    curve = draw_curve(seed)
    # `Learner.lr_find` hands on `recorder.lrs[num_it//10:-5]` and the smoothed losses of the same steps.
    rates, losses = (curve[name].to_numpy()[STEPS // 10 : -5] for name in ("learning_rate", "smoothed"))
    if losses.min() >= losses[0]:
        with pytest.raises(InputError, match="finds no learning rate"):
            suggest(curve)
        return
    table = suggest(curve)
    valley = transcribe_valley(losses.tolist())
    assert find_suggestion(table, "valley") == rates[max(0, valley)]
    assert find_suggestion(table, "steepest") == rates[transcribe_steep(rates, losses)]


@pytest.mark.parametrize("length, valley", [(2, 28), (3, 28), (4, 27), (5, 26), (6, 27), (20, 19)])
def test_the_valley_is_near_the_middle_of_the_longest_fall(length: int, valley: int):
    before = np.full(STEPS, 1.0)
    before[31 - length :] = 2.0  # then never again below where it starts
    before[31 - length : 31] = 1 - np.arange(length) / 100
    found = suggest(make_curve(before.tolist()))
    assert found.index[found["suggestion"].str.contains("valley")].to_list() == [valley]


def test_what_the_last_five_steps_do_does_not_count():
    falling = np.r_[np.full(40, 1.0), np.linspace(0.99, 0.5, 20)]
    expected = suggest(make_curve(falling.tolist()))
    falling[-5:] = [0.1, 0.05, 0.02, 0.01, 1e-6]
    table = suggest(make_curve(falling.tolist()))
    assert table["suggestion"].to_list() == expected["suggestion"].to_list()


def test_a_fall_of_the_first_two_losses_suggests_the_first_and_not_the_highest_rate():
    losses = [1.0] * (STEPS // 10 + 1) + [0.9] + np.linspace(1, 4, 50).tolist()
    assert transcribe_valley(losses[STEPS // 10 : -5]) == -1  # which fastai reads as the last
    table = suggest(make_curve(losses))
    assert find_suggestion(table, "valley") == table["learning_rate"][STEPS // 10]


def test_one_learning_rate_may_be_both_suggestions():
    falling = np.r_[np.full(40, 1.0), np.linspace(0.99, 0.5, 20), np.full(5, 1.0)]
    falling[49:60] -= 0.1
    table = suggest(make_curve(falling.tolist()))
    (both,) = table["learning_rate"][table["suggestion"] == "steepest valley"]
    assert find_suggestion(table, "steepest") == find_suggestion(table, "valley") == both


@pytest.mark.parametrize(
    "smoothed", [[1.0] * 50, np.linspace(1, 4, 50).tolist(), [1.0] * 10, [], [1.0] * 11, [*[1.0] * 30, *[0.5] * 5]]
)
def test_a_loss_that_never_falls_is_refused_with_a_remedy(smoothed: list[float]):
    with pytest.raises(InputError, match=r"(?s)finds no learning rate.*Expected: .*Remedy: .*to a number"):
        suggest(make_curve(smoothed))


def test_auto_takes_the_valley():
    rate, table = choose_learning_rate(build(), make_images(), AUTO, EQUAL)
    assert rate == find_suggestion(table, "valley")
    assert 1e-6 < rate < 10


def test_auto_without_anything_to_learn_is_refused():
    with pytest.raises(InputError, match="finds no learning rate"):
        choose_learning_rate(build(), make_images(), AUTO, {0: 0.0, 1: 0.0})


def test_a_given_number_needs_no_test():
    rate, table = choose_learning_rate(build(), make_images(), AUTO.model_copy(update={"learning_rate": 0.1}), EQUAL)
    assert (rate, len(table)) == (0.1, 0)


@pytest.mark.parametrize("learning_rate", ["auto", 0.1])
def test_a_table_reads_as_it_was_written(tmp_path: Path, learning_rate: float | str):
    params = AUTO.model_copy(update={"learning_rate": learning_rate})
    _, table = choose_learning_rate(build(), make_images(), params, EQUAL)
    write_table(table, tmp_path / "range.csv")
    pd.testing.assert_frame_equal(read_range_test(tmp_path / "range.csv"), table, check_dtype=len(table) > 0)


def test_the_figure_marks_both_suggestions_and_carries_the_notice():
    _, table = choose_learning_rate(build(), make_images(), AUTO, EQUAL)
    figure = draw_range_test(table, "no clinical meaning")
    axes = figure.axes[0]
    marks = {str(line.get_label()).split(":")[0]: float(np.asarray(line.get_xdata())[0]) for line in axes.lines[2:]}
    assert marks == {name: find_suggestion(table, name) for name in ("steepest", "valley")}
    assert axes.get_xscale() == "log"
    assert figure.get_supxlabel() == "no clinical meaning"
