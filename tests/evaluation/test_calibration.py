"""Temperature scaling agrees with scikit-learn, and stops where the images no longer carry it."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn import metrics as sk
from sklearn.calibration import CalibratedClassifierCV, calibration_curve
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from pneumonia.core.errors import InputError
from pneumonia.evaluation.calibration import (
    TEMPERATURES,
    expected_calibration_error,
    fit_temperature,
    trace_reliability,
)
from pneumonia.inference.operating_point import calibrate

Images = tuple[Any, Any]


def judge_images(images: int, seed: int, temperature: float = 1.0) -> Images:
    """Return labels and log odds of images of which a model is `temperature` times as sure as it should be."""
    rng = np.random.default_rng(seed)
    log_odds = rng.normal(0, 2, images)
    return (rng.random(images) < calibrate(log_odds, 1)).astype(np.uint8), temperature * log_odds


@st.composite
def judged_images(draw: st.DrawFn) -> Images:
    """Return labels of both classes and log odds for each image."""
    labels = [0, 1, *draw(st.lists(st.integers(0, 1), max_size=30))]
    log_odds = draw(st.lists(st.floats(-20, 20), min_size=len(labels), max_size=len(labels)))
    return np.array(labels, np.uint8), np.array(log_odds)


@st.composite
def rated_images(draw: st.DrawFn) -> Images:
    """Return labels of one class or both, and a probability for each image."""
    labels = draw(st.lists(st.integers(0, 1), min_size=1, max_size=40))
    probabilities = draw(st.lists(st.floats(0, 1), min_size=len(labels), max_size=len(labels)))
    return np.array(labels, np.uint8), np.array(probabilities)


def loss(labels: Any, log_odds: Any, temperature: float) -> float:
    return float(np.logaddexp(0, np.where(labels == 1, -log_odds, log_odds) / temperature).mean())


@pytest.mark.parametrize("temperature", [0.3, 0.8, 1.0, 1.7, 6.0])
def test_probabilities_are_those_of_scikit_learns_temperature_scaling(temperature: float):
    labels, log_odds = judge_images(400, seed=1, temperature=temperature)
    model = LogisticRegression()  # whose decision function is what goes in
    model.classes_, model.coef_, model.intercept_ = np.arange(2), np.ones((1, 1)), np.zeros(1)
    column = log_odds[:, None]
    theirs = CalibratedClassifierCV(FrozenEstimator(model), method="temperature", cv=2).fit(column, labels)
    ours = calibrate(log_odds, fit_temperature(labels, log_odds))
    assert_allclose(ours, theirs.predict_proba(column)[:, 1], atol=1e-6)


def test_a_model_that_means_what_it_says_is_left_alone():
    assert fit_temperature(*judge_images(20_000, seed=2)) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("temperature", [0.4, 3.0])
def test_a_model_too_timid_or_too_sure_is_put_right(temperature: float):
    images = judge_images(20_000, seed=3, temperature=temperature)
    assert fit_temperature(*images) == pytest.approx(temperature, rel=0.03)


@pytest.mark.parametrize("factor", [0.2, 0.5, 2.0, 7.0])
def test_log_odds_that_are_times_as_large_have_a_temperature_that_is_too(factor: float):
    labels, log_odds = judge_images(300, seed=4)
    scaled = fit_temperature(labels, factor * log_odds)
    assert scaled == pytest.approx(factor * fit_temperature(labels, log_odds), rel=1e-6)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(images=judged_images())
def test_the_log_loss_of_the_images_fitted_on_never_rises(images: Images):
    temperature = fit_temperature(*images)
    assert TEMPERATURES[0] <= temperature <= TEMPERATURES[1]
    assert loss(*images, temperature) <= loss(*images, 1.0) + 1e-9


@settings(derandomize=True, max_examples=60, deadline=None)
@given(images=judged_images(), other=st.floats(0.05, 20))
def test_no_temperature_above_one_would_have_been_better(images: Images, other: float):
    assert loss(*images, fit_temperature(*images)) <= loss(*images, max(1.0, other)) + 1e-7


@settings(derandomize=True, max_examples=40, deadline=None)
@given(images=judged_images(), seed=st.integers(0, 99))
def test_the_order_of_images_does_not_matter(images: Images, seed: int):
    labels, log_odds = images
    order = np.random.default_rng(seed).permutation(len(labels))
    shuffled, straight = fit_temperature(labels[order], log_odds[order]), fit_temperature(labels, log_odds)
    assert_allclose(calibrate(log_odds, shuffled), calibrate(log_odds, straight), atol=1e-5)


@pytest.mark.parametrize("label", [0, 1])
def test_a_single_class_is_refused_in_three_parts(label: int):
    with pytest.raises(InputError, match=r"No temperature(.|\n)*Expected: images of both(.|\n)*Remedy: raise split"):
        fit_temperature(np.full(5, label, np.uint8), np.arange(5.0))


def test_images_without_an_error_sharpen_a_timid_model_only_as_far_as_their_number_carries():
    # All of them at the same log odds: the error rate that the model is left to expect is Laplace's.
    for images in (10, 100, 1000):
        labels = np.arange(images, dtype=np.uint8) % 2
        probabilities = calibrate(0.5 * (2.0 * labels - 1), fit_temperature(labels, 0.5 * (2.0 * labels - 1)))
        assert_allclose(np.abs(labels - probabilities), 1 / (images + 2), rtol=1e-4)


def test_images_without_an_error_leave_a_model_that_is_sure_already_as_it_is():
    labels = np.array([0, 0, 1, 1], np.uint8)
    assert fit_temperature(labels, np.array([-8.0, -6.0, 7.0, 9.0])) == 1


def test_an_error_by_a_hair_counts_no_more_than_none():
    labels = np.array([0, 1] * 20, np.uint8)
    none = np.where(labels, 0.8, -0.8)
    hair = none.copy()
    hair[0] = 1e-6
    assert fit_temperature(labels, hair) == pytest.approx(fit_temperature(labels, none), rel=0.02)


@settings(derandomize=True, max_examples=40, deadline=None)
@given(sizes=st.lists(st.floats(0.01, 20), min_size=2, max_size=40))
def test_images_without_an_error_never_make_a_model_certain(sizes: list[float]):
    labels = np.arange(len(sizes), dtype=np.uint8) % 2
    log_odds = np.where(labels == 1, sizes, np.negative(sizes))
    probabilities = calibrate(log_odds, fit_temperature(labels, log_odds))
    assert ((probabilities > 0) & (probabilities < 1)).all()


def test_a_model_that_is_mostly_wrong_is_told_to_say_nothing():
    labels, log_odds = judge_images(300, seed=5)
    temperature = fit_temperature(labels, -log_odds)
    assert temperature == pytest.approx(TEMPERATURES[1])
    assert_allclose(calibrate(-log_odds, temperature), 0.5, atol=0.1)


def test_no_temperature_lies_outside_the_bounds():
    labels, log_odds = judge_images(300, seed=5)
    assert fit_temperature(labels, log_odds / 1000) == pytest.approx(0.05)
    assert fit_temperature(labels, log_odds * 1000) == pytest.approx(20)


def test_log_odds_of_nothing_stay_a_half():
    labels = np.array([0, 1, 1], np.uint8)
    assert calibrate(np.zeros(3), fit_temperature(labels, np.zeros(3))).tolist() == [0.5, 0.5, 0.5]


def test_log_odds_in_single_precision_are_as_good():
    labels, log_odds = judge_images(300, seed=6)
    probabilities = calibrate(log_odds.astype(np.float32), fit_temperature(labels, log_odds.astype(np.float32)))
    assert probabilities.dtype == np.float64
    assert_allclose(probabilities, calibrate(log_odds, fit_temperature(labels, log_odds)), atol=1e-6)


def test_a_temperature_divides_log_odds():
    assert_allclose(calibrate(np.array([-2.0, 0.0, 2.0]), 2.0), [0.268941421, 0.5, 0.731058579])
    assert calibrate(np.array([[-1e4, 1e4]]), 0.05).tolist() == [[0, 1]]


@settings(derandomize=True, max_examples=40, deadline=None)
@given(images=judged_images(), temperature=st.floats(1, 20))
def test_calibrating_keeps_the_order_of_images_and_so_the_roc_auc(images: Images, temperature: float):
    labels, log_odds = images
    # Closer than this they may fall on the same probability.
    log_odds = log_odds.round(6)
    before, after = calibrate(log_odds, 1.0), calibrate(log_odds, temperature)
    assert (np.diff(after[np.argsort(before)]) >= 0).all()
    assert sk.roc_auc_score(labels, after) == pytest.approx(sk.roc_auc_score(labels, before), abs=1e-12)


@pytest.mark.parametrize("bins", [5, 10, 20])
def test_bins_with_images_are_those_of_scikit_learn(bins: int):
    labels, log_odds = judge_images(60, seed=7)
    probabilities = calibrate(log_odds, 0.4)
    shares, means = calibration_curve(labels, probabilities, n_bins=bins, strategy="uniform")
    found = trace_reliability(labels, probabilities, bins).dropna()
    assert_allclose(found[["share_of_pneumonia", "mean_probability"]], np.c_[shares, means])


def test_bins_are_as_counted_by_hand_and_stay_when_they_are_empty():
    labels = np.array([0, 1, 0, 1, 1], np.uint8)
    table = trace_reliability(labels, np.array([0.0, 0.1, 0.24, 0.5, 1.0]), bins=4)
    assert table.columns.tolist() == [
        *("low", "high", "images", "mean_probability"),
        *("share_of_pneumonia", "share_low", "share_high"),
    ]
    assert table["low"].tolist() == [0, 0.25, 0.5, 0.75]
    assert table["high"].tolist() == [0.25, 0.5, 0.75, 1]
    assert table["images"].tolist() == [3, 0, 1, 1]
    assert_allclose(table["mean_probability"], [0.34 / 3, np.nan, 0.5, 1])
    assert_allclose(table["share_of_pneumonia"], [1 / 3, np.nan, 1, 1])
    assert table.iloc[1, 3:].isna().all()


@settings(derandomize=True, max_examples=60, deadline=None)
@given(probability=st.floats(0, 1), bins=st.integers(1, 100))
def test_a_probability_lies_in_its_bin_the_lower_bound_included(probability: float, bins: int):
    table = trace_reliability(np.ones(1, np.uint8), np.array([probability]), bins)
    low, high = table.loc[table["images"] == 1, ["low", "high"]].to_numpy()[0]
    assert low <= probability
    assert probability < high or probability == high == 1


def test_a_bound_that_is_no_binary_number_belongs_to_the_bin_above():
    table = trace_reliability(np.ones(2, np.uint8), np.array([0.3, 0.29]), bins=100)
    assert np.flatnonzero(table["images"]).tolist() == [29, 30]


def test_the_interval_of_a_share_is_wilsons():
    labels = np.repeat(np.array([1, 0], np.uint8), [27, 3])
    row = trace_reliability(labels, np.full(30, 0.85)).iloc[8]
    z, n, share = 1.959964, 30, 0.9
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    assert_allclose(row[["share_low", "share_high"]].astype(float), [middle - half, middle + half], rtol=1e-6)


@settings(derandomize=True, max_examples=40, deadline=None)
@given(images=rated_images(), bins=st.integers(1, 20))
def test_no_image_is_lost_and_every_share_lies_in_its_interval(images: Images, bins: int):
    table = trace_reliability(*images, bins)
    assert len(table) == bins
    assert table["images"].sum() == len(images[0])
    full = table[table["images"] > 0]
    ordered = np.c_[np.zeros(len(full)), full[["share_low", "share_of_pneumonia", "share_high"]], np.ones(len(full))]
    assert (np.diff(ordered, axis=1) >= -1e-12).all()


def test_the_calibration_error_is_that_counted_by_hand():
    labels = np.array([0, 1, 0, 1, 1], np.uint8)
    probabilities = np.array([0.0, 0.1, 0.24, 0.5, 1.0])
    assert expected_calibration_error(labels, probabilities, bins=4) == pytest.approx((0.66 + 0 + 0.5 + 0) / 5)


def test_a_constant_that_is_the_share_of_pneumonia_has_no_calibration_error():
    labels = np.array([1, 1, 1, 0], np.uint8)
    assert expected_calibration_error(labels, np.full(4, 0.75)) == 0


@pytest.mark.parametrize(("right", "error"), [(True, 0), (False, 1)])
def test_certainty_has_no_error_when_right_and_all_of_it_when_wrong(right: bool, error: float):
    labels = np.array([1, 0, 1], np.uint8)
    assert expected_calibration_error(labels, np.where(right, labels, 1 - labels).astype(np.float32)) == error


@settings(derandomize=True, max_examples=60, deadline=None)
@given(images=rated_images(), bins=st.integers(1, 20))
def test_the_calibration_error_is_what_the_reliability_table_says(images: Images, bins: int):
    table = trace_reliability(*images, bins)
    gaps = (table["share_of_pneumonia"] - table["mean_probability"]).abs()
    error = expected_calibration_error(*images, bins)
    assert error == pytest.approx((gaps * table["images"]).sum() / len(images[0]), abs=1e-12)
    assert 0 <= error <= 1
