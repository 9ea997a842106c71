"""Clinical metrics of a binary classifier; pneumonia is the positive class."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn import metrics as sk

from pneumonia.calibration import expected_calibration_error
from pneumonia.errors import InputError
from pneumonia.params import ThresholdRule
from pneumonia.records import CLASSES

Labels = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.floating[Any]]
OUTCOMES = ("true positives", "true negatives", "false positives", "false negatives")


def choose_threshold(
    labels: Labels, probabilities: Probabilities, rule: ThresholdRule, sensitivity_floor: float = 0.0
) -> float:
    """Return the threshold that is best on these films by a rule.

    It lies midway between two neighbouring probabilities, 0 and 1 among them. Of several as good it is the lowest,
    which misses the fewest ill.

    Args:
        labels: 0 or 1, shape (n,).
        probabilities: of pneumonia, 0 to 1, shape (n,).
        rule: youden: sensitivity + specificity - 1 (Youden 1950, doi:10.1002/1097-0142(1950)3:1<32::AID-CNCR2820030106
            >3.0.CO;2-3); f1: F1 of pneumonia; sensitivity_floor: specificity, where sensitivity is at least that.
        sensitivity_floor: 0 to 1, of the rule of that name.

    Raises:
        InputError: one of the classes does not occur.
    """
    ill, healthy = (np.sort(probabilities[labels == label]) for label in (1, 0))
    if not len(ill) or not len(healthy):
        raise InputError(
            f"No threshold can be chosen by {rule}: of {len(labels)} validation films {len(ill)} show pneumonia.",
            expected="films of both classes",
            remedy="raise split.ratios.val, or set evaluate.threshold to a number",
        )
    scores = np.unique(np.r_[0.0, probabilities, 1.0])
    middles = (scores[:-1] + scores[1:]) / 2
    thresholds = np.where(middles > scores[:-1], middles, scores[1:])  # there is nothing between adjacent floats
    tp, fp = (len(group) - np.searchsorted(group, thresholds) for group in (ill, healthy))
    # In whole numbers, so that what is equal compares equal.
    gains = {
        "youden": tp * len(healthy) - fp * len(ill),
        "f1": 2 * tp / (tp + fp + len(ill)),
        "sensitivity_floor": np.where(tp >= sensitivity_floor * len(ill), -fp, -len(healthy) - 1),
    }[rule]
    return float(thresholds[np.argmax(gains)])


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
    """Return the actual and the called class of each film by name."""
    names = np.array(CLASSES)
    return pd.DataFrame({"actual": names[labels], "called": names[(probabilities >= threshold).astype(int)]})


def pick_examples(labels: Labels, probabilities: Probabilities, threshold: float, number: int) -> "pd.Series[str]":
    """Return of each of OUTCOMES the films of which the model was most certain.

    Args:
        labels: 0 or 1, shape (n,).
        probabilities: of pneumonia, 0 to 1, shape (n,).
        threshold: between 0 and 1.
        number: most films of an outcome.

    Returns:
        The outcome of each such film, indexed by the film's number from 0, most certain first.
    """
    called = probabilities >= threshold
    outcomes = pd.Series(np.array(OUTCOMES)[2 * (labels != called) + ~called], dtype=str)
    certain = outcomes.iloc[np.argsort(np.where(called, -probabilities, probabilities), stable=True)]
    return certain.groupby(certain).head(number)
