"""The threshold chosen on validation is the best by its rule."""

from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from pneumonia.core.errors import InputError
from pneumonia.core.params import EvaluateParams
from pneumonia.evaluation.calibration import fit_temperature
from pneumonia.evaluation.metrics import compute_metrics
from pneumonia.evaluation.thresholds import choose_operating_point, choose_threshold
from pneumonia.inference.operating_point import calibrate


@st.composite
def judged_images(draw: st.DrawFn) -> tuple[Any, Any]:
    """Return labels of both classes and a probability for each."""
    labels = [0, 1, *draw(st.lists(st.integers(0, 1), max_size=30))]
    probabilities = draw(st.lists(st.floats(0, 1, width=32), min_size=len(labels), max_size=len(labels)))
    return np.array(labels, np.uint8), np.array(probabilities)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(images=judged_images(), floor=st.floats(0, 1))
def test_no_threshold_that_keeps_the_sensitivity_floor_is_more_specific(images: tuple[Any, Any], floor: float):
    labels, probabilities = images
    threshold = choose_threshold(labels, probabilities, "sensitivity_floor", floor)
    found = compute_metrics(labels, probabilities, threshold)
    reachable = (labels == 1) & (probabilities > 0)  # an image of probability 0 is called at no threshold
    if reachable.sum() < floor * (labels == 1).sum():
        return
    assert found["sensitivity"] >= floor - 1e-6
    for other in probabilities[probabilities > 0]:
        also = compute_metrics(labels, probabilities, other)
        assert also["sensitivity"] < floor or also["specificity"] <= found["specificity"]


@settings(derandomize=True, max_examples=200, deadline=None)
@given(thousandths=st.integers(0, 1000), ill=st.integers(1, 300))
def test_a_sensitivity_floor_asks_for_no_image_more_than_its_decimal_number_does(thousandths: int, ill: int):
    """A float such as 0.55 lies above the decimal number that was written, and 0.55 * 100 is above 55."""
    ranks = np.arange(1, 2 * ill + 1)  # a normal image below each ill one, so that every ill image less is a gain
    threshold = choose_threshold(
        (ranks % 2 == 0).astype(np.uint8), ranks / 1000, "sensitivity_floor", thousandths / 1000
    )
    needed = -(-thousandths * ill // 1000)
    assert (ranks[ranks % 2 == 0] / 1000 >= threshold).sum() == max(1, needed)  # the first costs no specificity


def judge(labels: Any, calls: Any, rule: str) -> float:
    """Return the figure that a rule maximises."""
    if rule == "f1":
        return float(sk.f1_score(labels, calls))
    return float(sk.recall_score(labels, calls) + sk.recall_score(labels, calls, pos_label=0) - 1)


each_rule = pytest.mark.parametrize("rule", ["youden", "f1"])


@each_rule
@settings(derandomize=True, max_examples=60, deadline=None)
@given(images=judged_images())
def test_no_threshold_is_better_than_the_one_chosen(rule: Literal["youden", "f1"], images: tuple[Any, Any]):
    labels, probabilities = images
    threshold = choose_threshold(labels, probabilities, rule)
    assert 0 < threshold <= 1
    # At thresholds above 0 up to 1 an image of probability 0 is never called and one of probability 1 always is.
    others = [probabilities >= p for p in [*probabilities[probabilities > 0], 1.0]]
    best = max(judge(labels, calls, rule) for calls in others)
    assert judge(labels, probabilities >= threshold, rule) == pytest.approx(best, abs=1e-12)


@each_rule
@settings(derandomize=True, max_examples=40, deadline=None)
@given(labels=st.lists(st.integers(0, 1), max_size=8), places=st.lists(st.integers(1, 99), min_size=10, max_size=10))
def test_the_threshold_lies_midway_between_neighbours_and_is_the_lowest_of_the_best(
    rule: Literal["youden", "f1"], labels: list[int], places: list[int]
):
    known = np.array([0, 1, *labels], np.uint8)
    probabilities = np.array(places[: len(known)]) / 100
    threshold = choose_threshold(known, probabilities, rule)
    scores = np.unique([0, *probabilities, 1])
    middles = [*(scores[:-1] + scores[1:]) / 2]
    figures = [round(judge(known, probabilities >= middle, rule), 12) for middle in middles]
    assert threshold == middles[figures.index(max(figures))]


@each_rule
def test_classes_that_do_not_overlap_are_separated_in_the_middle(rule: Literal["youden", "f1"]):
    assert choose_threshold(np.array([0, 1, 0, 1], np.uint8), np.array([0.1, 0.6, 0.2, 0.9]), rule) == 0.4


@each_rule
def test_adjacent_floats_are_separated(rule: Literal["youden", "f1"]):
    below = np.nextafter(0.7, 0)
    assert choose_threshold(np.array([0, 1], np.uint8), np.array([below, 0.7]), rule) == 0.7


def test_the_rules_differ_where_one_class_is_rare():
    labels = np.array([1] * 8 + [0] * 2, np.uint8)
    probabilities = np.array([0.9, 0.9, 0.9, 0.9, 0.9, 0.3, 0.2, 0.2, 0.5, 0.1])
    assert choose_threshold(labels, probabilities, "youden") == pytest.approx(0.7)
    assert choose_threshold(labels, probabilities, "f1") == pytest.approx(0.15)


@pytest.mark.parametrize("label", [0, 1])
def test_a_single_class_is_refused(label: int):
    with pytest.raises(
        InputError, match=r"(?s)No threshold.*Expected: images of both classes.*Remedy.*evaluate.threshold"
    ):
        choose_threshold(np.full(3, label, np.uint8), np.array([0.1, 0.2, 0.3]), "youden")


# The operating point.

LABELS = np.array([0, 1, 0, 1, 1, 0, 1], np.uint8)
LOG_ODDS = np.array([-2.0, 1.5, 0.3, 2.5, -0.4, -1.2, 0.9])
PARAMS = EvaluateParams(threshold=0.3, sensitivity_floor=0.9, flip=False, heatmap="cam", resamples=100, seed=1)


def test_a_threshold_that_is_a_number_is_taken_as_it_is():
    point = choose_operating_point(LABELS, LOG_ODDS, 32, PARAMS)
    assert (point.threshold, point.rule, point.image_size) == (0.3, "fixed", 32)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("rule", ["youden", "f1", "sensitivity_floor"])
def test_temperature_and_threshold_follow_from_the_scores_of_validation(
    rule: Literal["youden", "f1", "sensitivity_floor"], flip: bool
):
    point = choose_operating_point(LABELS, LOG_ODDS, 32, PARAMS.model_copy(update={"threshold": rule, "flip": flip}))
    assert (point.flip, point.temperature) == (flip, fit_temperature(LABELS, LOG_ODDS))
    assert point.threshold == choose_threshold(LABELS, calibrate(LOG_ODDS, point.temperature), rule, 0.9)
    assert point.rule == ("sensitivity_floor 0.9" if rule == "sensitivity_floor" else rule)
