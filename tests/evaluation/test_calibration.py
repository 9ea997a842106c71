"""Temperature scaling agrees with scikit-learn, and never makes a model more certain than its images support."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn.calibration import CalibratedClassifierCV, calibration_curve
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from pneumonia.core.errors import InputError
from pneumonia.evaluation.calibration import TEMPERATURES, fit_temperature, trace_reliability
from pneumonia.evaluation.metrics import measure
from pneumonia.inference.operating_point import calibrate

Images = tuple[Any, Any]


def judge_images(images: int, seed: int, temperature: float = 1.0) -> Images:
    """Return labels and log odds of a model that is `temperature` times as sure as it should be."""
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


def soften(labels: Any) -> Any:
    """Return Platt's targets: 1 and 0 moved by what a uniform prior of the error rate adds."""
    ill, healthy = int(labels.sum()), int((1 - labels).sum())
    return np.where(labels == 1, (ill + 1) / (ill + 2), 1 / (healthy + 2))


def loss(targets: Any, log_odds: Any, temperature: float) -> float:
    z = log_odds / temperature
    return float((targets * np.logaddexp(0, -z) + (1 - targets) * np.logaddexp(0, z)).mean())


@pytest.mark.parametrize("temperature", [0.3, 0.8, 1.0, 1.7, 6.0])
@pytest.mark.parametrize("images", [20, 400])
def test_probabilities_are_those_of_scikit_learns_temperature_scaling_on_platts_targets(
    temperature: float, images: int
):
    labels, log_odds = judge_images(images, seed=1, temperature=temperature)
    model = LogisticRegression()  # passes log odds on as its decision function
    model.classes_, model.coef_, model.intercept_ = np.arange(2), np.ones((1, 1)), np.zeros(1)
    # scikit-learn takes classes only: each image counts for both, weighted by its target.
    column, both, weights = np.r_[log_odds, log_odds][:, None], np.repeat([1, 0], images), soften(labels)
    theirs = CalibratedClassifierCV(FrozenEstimator(model), method="temperature", cv=2)
    with pytest.warns(UserWarning, match="FrozenEstimator does not appear to accept sample_weight"):
        theirs.fit(column, both, sample_weight=np.r_[weights, 1 - weights])
    ours = calibrate(log_odds, fit_temperature(labels, log_odds))
    assert_allclose(ours, theirs.predict_proba(column[:images])[:, 1], atol=1e-5)


def test_a_calibrated_model_keeps_a_temperature_of_1():
    assert fit_temperature(*judge_images(20_000, seed=2)) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("temperature", [0.4, 3.0])
def test_a_model_that_is_too_timid_or_too_sure_is_corrected(temperature: float):
    images = judge_images(20_000, seed=3, temperature=temperature)
    assert fit_temperature(*images) == pytest.approx(temperature, rel=0.03)


@pytest.mark.parametrize("factor", [0.2, 0.5, 2.0, 7.0])
def test_the_temperature_scales_with_the_log_odds(factor: float):
    labels, log_odds = judge_images(300, seed=4)
    scaled = fit_temperature(labels, factor * log_odds)
    assert scaled == pytest.approx(factor * fit_temperature(labels, log_odds), rel=1e-6)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(images=judged_images(), other=st.floats(*TEMPERATURES))
def test_no_other_temperature_has_a_lower_loss_against_platts_targets(images: Images, other: float):
    labels, log_odds = images
    temperature = fit_temperature(labels, log_odds)
    assert TEMPERATURES[0] <= temperature <= TEMPERATURES[1]
    assert loss(soften(labels), log_odds, temperature) <= loss(soften(labels), log_odds, other) + 1e-7


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


@pytest.mark.parametrize("images", [10, 100, 1000])
def test_images_without_an_error_sharpen_a_timid_model_only_as_far_as_their_number_supports(images: int):
    # All at the same log odds, half of them ill: the error rate left is Platt's for images / 2 of a class.
    labels = np.arange(images, dtype=np.uint8) % 2
    log_odds = 0.5 * (2.0 * labels - 1)
    probabilities = calibrate(log_odds, fit_temperature(labels, log_odds))
    assert_allclose(np.abs(labels - probabilities), 1 / (images / 2 + 2), rtol=1e-4)


def test_images_without_an_error_make_a_model_less_certain_that_claims_more_than_their_number_supports():
    labels = np.array([0, 0, 1, 1], np.uint8)
    assert fit_temperature(labels, np.array([-8.0, -6.0, 7.0, 9.0])) > 3


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


def test_a_model_that_is_mostly_wrong_is_brought_near_a_half():
    labels, log_odds = judge_images(300, seed=5)
    temperature = fit_temperature(labels, -log_odds)
    assert temperature == pytest.approx(TEMPERATURES[1])
    assert_allclose(calibrate(-log_odds, temperature), 0.5, atol=0.1)


def test_no_temperature_lies_outside_the_bounds():
    labels, log_odds = judge_images(300, seed=5)
    assert fit_temperature(labels, log_odds / 1000) == pytest.approx(0.05)
    assert fit_temperature(labels, log_odds * 1000) == pytest.approx(20)


def test_log_odds_of_0_stay_a_half():
    labels = np.array([0, 1, 1], np.uint8)
    assert calibrate(np.zeros(3), fit_temperature(labels, np.zeros(3))).tolist() == [0.5, 0.5, 0.5]


def test_log_odds_in_single_precision_give_the_same_probabilities():
    labels, log_odds = judge_images(300, seed=6)
    probabilities = calibrate(log_odds.astype(np.float32), fit_temperature(labels, log_odds.astype(np.float32)))
    assert probabilities.dtype == np.float64
    assert_allclose(probabilities, calibrate(log_odds, fit_temperature(labels, log_odds)), atol=1e-6)


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


def measure_calibration_error(labels: Any, probabilities: Any) -> float:
    return measure(labels, probabilities, 0.5)["calibration_error"]


def test_the_calibration_error_is_that_counted_by_hand():
    labels = np.array([0, 1, 0, 1, 1], np.uint8)
    probabilities = np.array([0.0, 0.02, 0.24, 0.9, 1.0])
    assert measure_calibration_error(labels, probabilities) == pytest.approx((0.98 + 0.24 + 0.1) / 5)


def test_a_constant_that_is_the_share_of_pneumonia_has_no_calibration_error():
    assert measure_calibration_error(np.array([1, 1, 1, 0], np.uint8), np.full(4, 0.75)) == 0


@pytest.mark.parametrize(("right", "error"), [(True, 0), (False, 1)])
def test_certainty_has_no_error_when_right_and_all_of_it_when_wrong(right: bool, error: float):
    labels = np.array([1, 0, 1], np.uint8)
    assert measure_calibration_error(labels, np.where(right, labels, 1 - labels).astype(np.float32)) == error


@settings(derandomize=True, max_examples=60, deadline=None)
@given(images=rated_images())
def test_the_calibration_error_is_that_of_the_reliability_table(images: Images):
    table = trace_reliability(*images)
    gaps = (table["share_of_pneumonia"] - table["mean_probability"]).abs()
    error = measure_calibration_error(*images)
    assert error == pytest.approx((gaps * table["images"]).sum() / len(images[0]), abs=1e-12)
    assert 0 <= error <= 1
