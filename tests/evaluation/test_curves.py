"""Curves and calls are those that the metrics count."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from judged import LABELS, PROBABILITIES, judged_images

from pneumonia.evaluation.curves import list_calls, trace_curves
from pneumonia.evaluation.metrics import compute_metrics


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
