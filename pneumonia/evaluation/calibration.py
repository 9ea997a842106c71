"""Fit the temperature of a model, and show how well its probabilities agree with the labels."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest

from pneumonia.core.errors import InputError
from pneumonia.evaluation.metrics import BINS, Labels, Probabilities, assign_bins

TEMPERATURES = (0.05, 20.0)  # networks need about 0.5 to 5; at 20 almost every probability is near a half
LEVEL = 0.95  # of the intervals


def fit_temperature(labels: Labels, log_odds: npt.NDArray[np.floating[Any]]) -> float:
    """Return the temperature by which log odds are divided for the least log loss against Platt's targets.

    Temperature scaling: Guo et al. 2017, arXiv:1706.04599, section 4.2. Against targets of 0 and 1 the loss of images
    that are all on the right side of 0 falls for ever as the temperature falls, down to probabilities of exactly 0 and
    1. Platt 1999, "Probabilistic outputs for support vector machines", section 2.2, therefore takes the posterior mean
    of the error rate under a uniform prior: (N+ + 1) / (N+ + 2) for pneumonia and 1 / (N- + 2) for normal, with N+ and
    N- images of each class. So no model gets more certain than the number of images supports.

    Args:
        labels: 0 or 1, shape (n,).
        log_odds: of pneumonia, shape (n,).

    Returns:
        Within TEMPERATURES; below 1 for a model that is too timid, above for one that is too sure.

    Raises:
        InputError: one of the classes does not occur.
    """
    ill = int(np.count_nonzero(labels))
    healthy = len(labels) - ill
    if not ill or not healthy:
        raise InputError(
            f"No temperature can be fitted: of {len(labels)} validation images {ill} show pneumonia.",
            expected="images of both classes",
            remedy="raise split.ratios.val",
        )
    targets = np.where(labels == 1, (ill + 1) / (ill + 2), 1 / (healthy + 2))
    z = log_odds.astype(np.float64)

    def loss(log_temperature: float) -> float:
        scaled = z / np.exp(log_temperature)
        return float(np.mean(np.logaddexp(0, -scaled) + (1 - targets) * scaled))

    # Convex in 1 / temperature, so there is one minimum.
    found = minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 1e-9})
    return float(np.exp(found.x))


def trace_reliability(labels: Labels, probabilities: Probabilities, bins: int = BINS) -> pd.DataFrame:
    """Return the share of pneumonia among images of about the same probability.

    The interval is Wilson's, at LEVEL (Wilson 1927, doi:10.1080/01621459.1927.10502953). It treats images as
    independent. Images of one patient are not, so it is too narrow where patients have several.

    Args:
        labels: 0 or 1, shape (n,).
        probabilities: of pneumonia, 0 to 1, shape (n,).
        bins: how many, see `metrics.assign_bins`.

    Returns:
        A row per bin: low, high, images, mean_probability, share_of_pneumonia, share_low, share_high. In a bin without
        images all but the first three are NaN.
    """
    which = assign_bins(probabilities, bins)
    images, ill, total = (np.bincount(which, weights, bins) for weights in (None, labels, probabilities))
    counted = np.where(images, images, np.nan)
    bounds = [
        binomtest(int(k), int(n)).proportion_ci(LEVEL, "wilson") if n else (np.nan, np.nan)
        for k, n in zip(ill, images, strict=True)
    ]
    return pd.DataFrame({
        "low": np.arange(bins) / bins,
        "high": np.arange(1, bins + 1) / bins,
        "images": images,
        "mean_probability": total / counted,
        "share_of_pneumonia": ill / counted,
        "share_low": [float(low) for low, _ in bounds],
        "share_high": [float(high) for _, high in bounds],
    })  # fmt: skip
