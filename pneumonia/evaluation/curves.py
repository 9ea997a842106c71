"""Tabulate what DVC plots: ROC and precision-recall curves, and the calls behind the confusion matrix."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from sklearn.metrics import precision_recall_curve, roc_curve

from pneumonia.core.names import CLASSES
from pneumonia.evaluation.metrics import Labels, Probabilities


def trace_curves(labels: Labels, models: Mapping[str, Probabilities]) -> dict[str, pd.DataFrame]:
    """Return the points of each model's curves, a table for `roc` and one for `precision_recall`.

    Args:
        labels: 0 or 1, shape (n,); both occur.
        models: probabilities of pneumonia by the name of the model, 0 to 1, shape (n,).

    Returns:
        Columns model, false_positive_rate and sensitivity; columns model, recall and precision. Rounded to six digits.
    """
    roc, recall = [], []
    for name, probabilities in models.items():
        fpr, tpr, _ = roc_curve(labels, probabilities)
        roc.append(pd.DataFrame({"model": name, "false_positive_rate": fpr, "sensitivity": tpr}))
        precision, sensitivity, _ = precision_recall_curve(labels, probabilities)
        recall.append(pd.DataFrame({"model": name, "recall": sensitivity, "precision": precision}))
    return {"roc": pd.concat(roc).round(6), "precision_recall": pd.concat(recall).round(6)}


def list_calls(labels: Labels, probabilities: Probabilities, threshold: float) -> pd.DataFrame:
    """Return the names of the actual and the called class of each image."""
    names = np.array(CLASSES)
    return pd.DataFrame({"actual": names[labels], "called": names[(probabilities >= threshold).astype(int)]})
