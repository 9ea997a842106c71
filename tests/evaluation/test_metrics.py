"""Metrics agree with counting by hand and with scikit-learn."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judged import LABELS, PROBABILITIES, judged_images
from sklearn import metrics as sk

from pneumonia.evaluation.metrics import METRICS, compute_metrics, measure


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


@settings(derandomize=True, max_examples=60, deadline=None)
@given(images=judged_images(), threshold=st.floats(0.01, 0.99))
def test_every_metric_but_the_calibration_error_is_scikit_learns(images: tuple[Any, Any], threshold: float):
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
    measured = measure(labels, probabilities, threshold)
    assert {*expected, "calibration_error"} == set(METRICS)
    assert {name: measured[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    tn, fp, fn, tp = sk.confusion_matrix(labels, calls, labels=[0, 1]).ravel().tolist()
    counts = {"true_negatives": tn, "false_positives": fp, "false_negatives": fn, "true_positives": tp}
    rounded = {name: round(measured[name], 6) for name in METRICS}
    assert compute_metrics(labels, probabilities, threshold) == rounded | counts | {"threshold": threshold}


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


def test_a_perfect_model_has_metrics_of_1_and_no_loss():
    measured = compute_metrics(LABELS, LABELS.astype(float), threshold=0.5)
    assert measured["loss"] == pytest.approx(0, abs=1e-6)
    for name in ("accuracy", "roc_auc", "pr_auc", "f1", "precision", "sensitivity", "specificity"):
        assert measured[name] == 1


def test_a_model_that_is_always_wrong_has_a_finite_loss():
    measured = compute_metrics(LABELS, 1 - LABELS.astype(float), threshold=0.5)
    assert 10 < measured["loss"] < 20
    assert measured["roc_auc"] == measured["accuracy"] == 0


@pytest.mark.parametrize(("probability", "sensitivity", "specificity"), [(0.2, 0, 1), (0.8, 1, 0)])
def test_a_model_with_one_probability_for_all_has_metrics_too(
    probability: float, sensitivity: float, specificity: float
):
    measured = compute_metrics(LABELS, np.full(10, probability), threshold=0.5)
    assert measured["roc_auc"] == 0.5
    assert (measured["sensitivity"], measured["specificity"]) == (sensitivity, specificity)
    assert measured["precision"] == (0.4 if sensitivity else 0)


def test_values_are_plain_numbers_for_json():
    assert {type(value) for value in compute_metrics(LABELS, PROBABILITIES, 0.5).values()} == {int, float}


def test_the_threshold_is_kept_unrounded():
    assert compute_metrics(LABELS, PROBABILITIES, 1 / 3)["threshold"] == 1 / 3
