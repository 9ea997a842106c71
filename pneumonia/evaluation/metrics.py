"""Metrics of a binary classifier; pneumonia is the positive class."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn import metrics as sk

from pneumonia.core.tables import CLASSES
from pneumonia.evaluation.calibration import expected_calibration_error

Labels = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.floating[Any]]
OUTCOMES = ("true positives", "true negatives", "false positives", "false negatives")


def compute_metrics(labels: Labels, probabilities: Probabilities, threshold: float) -> dict[str, float | int]:
    """Return loss, calibration, ranking metrics, and what follows from calling pneumonia from `threshold` on.

    All are rounded but the threshold.

    Args:
        labels: 0 or 1, shape (n,); both occur.
        probabilities: of pneumonia, 0 to 1, shape (n,).
        threshold: between 0 and 1.
    """
    calls = (probabilities >= threshold).astype(np.uint8)
    tn, fp, fn, tp = (int(count) for count in sk.confusion_matrix(labels, calls, labels=[0, 1]).ravel())
    rates = {
        "loss": sk.log_loss(labels, np.clip(probabilities, 1e-7, 1 - 1e-7)),
        "brier": sk.brier_score_loss(labels, probabilities),
        "calibration_error": expected_calibration_error(labels, probabilities),
        "accuracy": sk.accuracy_score(labels, calls),
        "roc_auc": sk.roc_auc_score(labels, probabilities),
        "pr_auc": sk.average_precision_score(labels, probabilities),
        "f1": sk.f1_score(labels, calls),
        "precision": tp / max(tp + fp, 1),
        "sensitivity": tp / (tp + fn),
        "specificity": tn / (tn + fp),
    }
    counts = {"true_negatives": tn, "false_positives": fp, "false_negatives": fn, "true_positives": tp}
    return {name: round(float(value), 6) for name, value in rates.items()} | counts | {"threshold": float(threshold)}


def trace_curves(labels: Labels, models: Mapping[str, Probabilities]) -> dict[str, pd.DataFrame]:
    """Return the points of every model's ROC and precision-recall curve: one table each, a column names the model."""
    roc, recall = [], []
    for name, probabilities in models.items():
        fpr, tpr, _ = sk.roc_curve(labels, probabilities)
        roc.append(pd.DataFrame({"model": name, "false_positive_rate": fpr, "sensitivity": tpr}))
        precision, sensitivity, _ = sk.precision_recall_curve(labels, probabilities)
        recall.append(pd.DataFrame({"model": name, "recall": sensitivity, "precision": precision}))
    return {"roc": pd.concat(roc).round(6), "precision_recall": pd.concat(recall).round(6)}


def list_calls(labels: Labels, probabilities: Probabilities, threshold: float) -> pd.DataFrame:
    """Return the actual and the called class of each image by name."""
    names = np.array(CLASSES)
    return pd.DataFrame({"actual": names[labels], "called": names[(probabilities >= threshold).astype(int)]})


def pick_examples(labels: Labels, probabilities: Probabilities, threshold: float, number: int) -> "pd.Series[str]":
    """Return of each of OUTCOMES the images of which the model was most certain.

    Args:
        labels: 0 or 1, shape (n,).
        probabilities: of pneumonia, 0 to 1, shape (n,).
        threshold: between 0 and 1.
        number: most images of an outcome.

    Returns:
        The outcome of each such image, indexed by the image's number from 0, most certain first.
    """
    called = probabilities >= threshold
    outcomes = pd.Series(np.array(OUTCOMES)[2 * (labels != called) + ~called], dtype=str)
    certain = outcomes.iloc[np.argsort(np.where(called, -probabilities, probabilities), stable=True)]
    return certain.groupby(certain).head(number)
