"""Choose images to look at: those of each outcome, and the most confident errors."""

import numpy as np
import pandas as pd

from pneumonia.evaluation.metrics import Labels, Probabilities

OUTCOMES = ("true positives", "true negatives", "false positives", "false negatives")


def pick_examples(labels: Labels, probabilities: Probabilities, threshold: float, number: int) -> "pd.Series[str]":
    """Return for each of OUTCOMES the images of which the model was most certain.

    Args:
        labels: 0 or 1, shape (n,).
        probabilities: of pneumonia, 0 to 1, shape (n,).
        threshold: 0 to 1; a probability equal to it is called pneumonia.
        number: of images of one outcome, at most.

    Returns:
        The outcome, indexed by the image's row, most certain first.
    """
    called = probabilities >= threshold
    outcomes = pd.Series(np.array(OUTCOMES)[2 * (labels != called) + ~called], dtype=str)
    certain = outcomes.iloc[np.argsort(np.where(called, -probabilities, probabilities), stable=True)]
    return certain.groupby(certain).head(number)


def rank_errors(labels: Labels, probabilities: Probabilities, threshold: float) -> "pd.Series[str]":
    """Return the outcome of each wrong call, indexed by the image's row, the most confident first; args as above."""
    errors = pick_examples(labels, probabilities, threshold, len(labels))
    errors = errors[errors.isin(OUTCOMES[2:])]
    distance = pd.Series(np.abs(probabilities - labels)).iloc[errors.index]
    return errors.loc[distance.sort_values(ascending=False, kind="stable").index]
