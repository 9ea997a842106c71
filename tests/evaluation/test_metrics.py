"""Metrics agree with counting by hand and with scikit-learn."""

from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from pneumonia.core.errors import InputError
from pneumonia.evaluation.metrics import OUTCOMES, compute_metrics, list_calls, pick_examples, trace_curves
from pneumonia.evaluation.thresholds import choose_threshold

# Four ill and six healthy; at 0.5 one of the ill is missed and two of the healthy are called ill.
LABELS = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], np.uint8)
PROBABILITIES = np.array([0.9, 0.8, 0.6, 0.3, 0.7, 0.5, 0.4, 0.2, 0.1, 0.05])


@st.composite
def judged_images(draw: st.DrawFn) -> tuple[Any, Any]:
    """Return labels of both classes and a probability for each."""
    labels = [0, 1, *draw(st.lists(st.integers(0, 1), max_size=30))]
    probabilities = draw(st.lists(st.floats(0, 1, width=32), min_size=len(labels), max_size=len(labels)))
    return np.array(labels, np.uint8), np.array(probabilities)


def test_counts_and_rates_are_those_counted_by_hand():
    measured = compute_metrics(LABELS, PROBABILITIES, threshold=0.5)
    expected = {
        "true_positives": 3,
        "false_negatives": 1,
        "true_negatives": 4,
        "false_positives": 2,
        "sensitivity": 3 / 4,
        "specificity": 4 / 6,
        "precision": 3 / 5,
        "accuracy": 7 / 10,
        "f1": 6 / 9,
        "roc_auc": 20 / 24,  # of all pairs of an ill and a healthy image, those in the right order
    }
    assert {name: measured[name] for name in expected} == pytest.approx(expected, abs=1e-6)


@settings(derandomize=True, max_examples=40, deadline=None)
@given(images=judged_images(), threshold=st.floats(0.01, 0.99))
def test_all_agree_with_scikit_learn(images: tuple[Any, Any], threshold: float):
    labels, probabilities = images
    calls = probabilities >= threshold
    expected = {
        "loss": sk.log_loss(labels, np.clip(probabilities, 1e-7, 1 - 1e-7)),
        "brier": sk.brier_score_loss(labels, probabilities),
        "accuracy": sk.accuracy_score(labels, calls),
        "roc_auc": sk.roc_auc_score(labels, probabilities),
        "pr_auc": sk.average_precision_score(labels, probabilities),
        "f1": sk.f1_score(labels, calls),
        "precision": sk.precision_score(labels, calls, zero_division=0),  # pyright: ignore[reportArgumentType]
        "sensitivity": sk.recall_score(labels, calls),
        "specificity": sk.recall_score(labels, calls, pos_label=0),
    }
    measured = compute_metrics(labels, probabilities, threshold)
    assert {name: measured[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_a_probability_at_the_threshold_is_called_pneumonia():
    at = compute_metrics(LABELS, PROBABILITIES, threshold=0.3)
    above = compute_metrics(LABELS, PROBABILITIES, threshold=np.nextafter(0.3, 1))
    assert (at["sensitivity"], above["sensitivity"]) == (1, 0.75)


@settings(derandomize=True, max_examples=20, deadline=None)
@given(images=judged_images(), low=st.floats(0.01, 0.99), high=st.floats(0.01, 0.99))
def test_a_higher_threshold_never_raises_sensitivity_nor_lowers_specificity(
    images: tuple[Any, Any], low: float, high: float
):
    low, high = sorted((low, high))
    lower, higher = (compute_metrics(*images, threshold) for threshold in (low, high))
    assert higher["sensitivity"] <= lower["sensitivity"]
    assert higher["specificity"] >= lower["specificity"]


def test_a_perfect_model_reaches_one_everywhere_and_no_loss():
    measured = compute_metrics(LABELS, LABELS.astype(float), threshold=0.5)
    assert measured["loss"] == pytest.approx(0, abs=1e-6)
    for name in ("accuracy", "roc_auc", "pr_auc", "f1", "precision", "sensitivity", "specificity"):
        assert measured[name] == 1


def test_a_model_that_is_always_wrong_has_a_finite_loss():
    measured = compute_metrics(LABELS, 1 - LABELS.astype(float), threshold=0.5)
    assert 10 < measured["loss"] < 20
    assert measured["roc_auc"] == measured["accuracy"] == 0


@pytest.mark.parametrize(("probability", "sensitivity", "specificity"), [(0.2, 0, 1), (0.8, 1, 0)])
def test_a_model_that_says_the_same_of_all_is_useless_and_no_error(
    probability: float, sensitivity: float, specificity: float
):
    measured = compute_metrics(LABELS, np.full(10, probability), threshold=0.5)
    assert measured["roc_auc"] == 0.5
    assert (measured["sensitivity"], measured["specificity"]) == (sensitivity, specificity)
    assert measured["precision"] == (0.4 if sensitivity else 0)


def test_values_are_plain_numbers_as_json_needs():
    assert {type(value) for value in compute_metrics(LABELS, PROBABILITIES, 0.5).values()} == {int, float}


def test_the_threshold_is_kept_unrounded():
    assert compute_metrics(LABELS, PROBABILITIES, 1 / 3)["threshold"] == 1 / 3


@settings(derandomize=True, max_examples=60, deadline=None)
@given(images=judged_images(), floor=st.floats(0, 1))
def test_no_threshold_of_the_sensitivity_asked_for_is_more_specific(images: tuple[Any, Any], floor: float):
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
def test_it_lies_midway_between_neighbours_and_is_the_lowest_of_the_best(
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
def test_two_classes_that_do_not_overlap_are_parted_in_the_middle(rule: Literal["youden", "f1"]):
    assert choose_threshold(np.array([0, 1, 0, 1], np.uint8), np.array([0.1, 0.6, 0.2, 0.9]), rule) == 0.4


@each_rule
def test_neighbours_with_nothing_between_them_are_parted(rule: Literal["youden", "f1"]):
    below = np.nextafter(0.7, 0)
    assert choose_threshold(np.array([0, 1], np.uint8), np.array([below, 0.7]), rule) == 0.7


def test_the_rules_differ_where_one_class_is_rare():
    labels = np.array([1] * 8 + [0] * 2, np.uint8)
    probabilities = np.array([0.9, 0.9, 0.9, 0.9, 0.9, 0.3, 0.2, 0.2, 0.5, 0.1])
    assert choose_threshold(labels, probabilities, "youden") == pytest.approx(0.7)
    assert choose_threshold(labels, probabilities, "f1") == pytest.approx(0.15)


@pytest.mark.parametrize("label", [0, 1])
def test_a_single_class_does_not_tell_where_the_other_begins(label: int):
    with pytest.raises(
        InputError, match=r"(?s)No threshold.*Expected: images of both classes.*Remedy.*evaluate.threshold"
    ):
        choose_threshold(np.full(3, label, np.uint8), np.array([0.1, 0.2, 0.3]), "youden")


def test_every_model_has_its_own_curves():
    curves = trace_curves(LABELS, {"initial": PROBABILITIES, "finetuned": LABELS.astype(float)})
    assert set(curves) == {"roc", "precision_recall"}
    assert all(set(curve["model"]) == {"initial", "finetuned"} for curve in curves.values())


@settings(derandomize=True, max_examples=20, deadline=None)
@given(images=judged_images())
def test_the_roc_curve_rises_from_corner_to_corner_over_its_area(images: tuple[Any, Any]):
    labels, probabilities = images
    roc = trace_curves(labels, {"model": probabilities})["roc"]
    points = roc[["false_positive_rate", "sensitivity"]].to_numpy()
    assert points[0].tolist() == [0, 0]
    assert points[-1].tolist() == [1, 1]
    assert (np.diff(points, axis=0) >= 0).all()
    area = np.trapezoid(points[:, 1], points[:, 0])
    assert area == pytest.approx(compute_metrics(labels, probabilities, 0.5)["roc_auc"], abs=1e-4)


def test_a_point_of_the_precision_recall_curve_is_what_its_threshold_gives():
    curve = trace_curves(LABELS, {"model": PROBABILITIES})["precision_recall"]
    measured = compute_metrics(LABELS, PROBABILITIES, threshold=0.5)
    points = curve[["recall", "precision"]].round(6).to_numpy().tolist()
    assert [measured["sensitivity"], measured["precision"]] in points


def test_calls_are_listed_by_the_names_of_the_classes():
    calls = list_calls(LABELS[2:6], PROBABILITIES[2:6], threshold=0.5)
    expected = {
        "actual": ["PNEUMONIA", "PNEUMONIA", "NORMAL", "NORMAL"],
        "called": ["PNEUMONIA", "NORMAL", "PNEUMONIA", "PNEUMONIA"],
    }
    pd.testing.assert_frame_equal(calls, pd.DataFrame(expected))


def test_examples_of_each_outcome_are_those_the_model_was_most_certain_of():
    examples = pick_examples(LABELS, PROBABILITIES, threshold=0.5, number=2)
    found = {outcome: examples.index[examples == outcome].tolist() for outcome in OUTCOMES}
    assert list(found.values()) == [[0, 1], [9, 8], [4, 5], [3]]


@settings(derandomize=True, max_examples=20, deadline=None)
@given(images=judged_images(), threshold=st.floats(0.01, 0.99))
def test_every_image_has_the_outcome_that_is_counted(images: tuple[Any, Any], threshold: float):
    counted = compute_metrics(*images, threshold)
    outcomes = pick_examples(*images, threshold, number=len(images[0]))
    assert sorted(outcomes.index) == list(range(len(images[0])))
    assert [(outcomes == name).sum() for name in OUTCOMES] == [counted[name.replace(" ", "_")] for name in OUTCOMES]
