"""Make probabilities mean what they say: temperature scaling, reliability, calibration error."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest

from pneumonia.core.errors import InputError

# metrics has the same two, and imports this module.
Labels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating[Any]]
TEMPERATURES = (0.05, 20.0)  # networks need about 0.5 to 5; 20 says of almost any image that nothing is known
LEVEL = 0.95  # of the intervals


def fit_temperature(labels: Labels, log_odds: Floats) -> float:
    """Return the temperature that log odds are to be divided by, for the least log loss on these images.

    Temperature scaling: Guo et al. 2017, arXiv:1706.04599, section 4.2.

    Images that all lie on the right side of 0 have no such temperature: the lower it is the less the loss, down to
    probabilities of exactly 0 and 1. But n images without an error do not show that there are none. Laplace's rule of
    succession expects an error rate of 1 / (n + 2), and below 1 the temperature falls no further than to the least loss
    at that rate: images may show that a model is too timid, but only as far as their number carries. It is the same when
    less than 1 / (n + 2) of the log odds lies on the wrong side. The rule never raises a temperature above 1, so the
    loss on these images never rises.

    Args:
        labels: 0 or 1, shape (n,).
        log_odds: of pneumonia, shape (n,).

    Returns:
        Within TEMPERATURES.

    Raises:
        InputError: one of the classes does not occur.
    """
    ill = int(np.count_nonzero(labels))
    if ill in (0, len(labels)):
        raise InputError(
            f"No temperature can be fitted: of {len(labels)} validation images {ill} show pneumonia.",
            expected="images of both classes",
            remedy="raise split.ratios.val",
        )
    size = np.abs(log_odds.astype(np.float64))
    wrong = np.where((log_odds > 0) == (labels == 1), 0, size)
    return max(_minimise_loss(size, wrong.mean()), min(1.0, _minimise_loss(size, size.mean() / (len(size) + 2))))


def _minimise_loss(size: Floats, wrong: float) -> float:
    """Return the temperature of least loss for log odds of this size, shape (n,).

    `wrong` is the part of their mean size that lies on the wrong side of 0: more is not needed to know the loss.
    """

    def loss(log_temperature: float) -> float:
        beta = np.exp(-log_temperature)
        # Mean log loss, as log(1 + exp(x)) = log(1 + exp(-x)) + x: one that is wrong costs its size on top.
        return float(np.logaddexp(0, -beta * size).mean() + beta * wrong)

    # Convex in 1 / temperature, so there is one minimum.
    found = minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 1e-9})
    return float(np.exp(found.x))


def trace_reliability(labels: Labels, probabilities: Floats, bins: int = 10) -> pd.DataFrame:
    """Return how often images had pneumonia that were given about the same probability of it.

    The interval is Wilson's, at LEVEL (Wilson 1927, doi:10.1080/01621459.1927.10502953). It takes images as independent;
    those of one patient are not, so it is rather too narrow.

    Args:
        labels: 0 or 1, shape (n,).
        probabilities: of pneumonia, 0 to 1, shape (n,).
        bins: of equal width, each with its lower bound, the last with both.

    Returns:
        A row per bin: low, high, images, mean_probability, share_of_pneumonia, share_low, share_high. Without images all
        but the first three are NaN.
    """
    which = _find_bins(probabilities, bins)
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


def expected_calibration_error(labels: Labels, probabilities: Floats, bins: int = 10) -> float:
    """Return the mean, over images, of the distance between mean probability and share of pneumonia in an image's bin.

    Naeini, Cooper & Hauskrecht 2015, doi:10.1609/aaai.v29i1.9602, in bins of equal width. Guo et al. 2017, section 3,
    ask the same of the probability of whichever class is called; here it is that of pneumonia on all images.

    Args:
        labels: 0 or 1, shape (n,).
        probabilities: of pneumonia, 0 to 1, shape (n,).
        bins: as in `trace_reliability`.

    Returns:
        0 to 1.
    """
    gaps = np.bincount(_find_bins(probabilities, bins), labels - probabilities.astype(np.float64))
    return float(np.abs(gaps).sum() / len(labels))


def _find_bins(probabilities: Floats, bins: int) -> npt.NDArray[np.intp]:
    # Compared with the bounds that are told: 0.29 * 100 is below 29.
    return np.digitize(probabilities.astype(np.float64), np.arange(1, bins) / bins)
