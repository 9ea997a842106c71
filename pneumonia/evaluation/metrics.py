"""Measure a binary classifier on weighted images; pneumonia is the positive class."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.floating[Any]]
Floats = npt.NDArray[np.float64]
Meter = Callable[[Floats], Floats]  # weights (resamples, images) -> values (METRICS, resamples), NaN where undefined

METRICS = (
    *("loss", "brier", "calibration_error", "accuracy", "roc_auc", "pr_auc"),
    *("f1", "precision", "sensitivity", "specificity"),
)
BINS = 10  # of equal width, for the calibration error


def compute_metrics(labels: Labels, probabilities: Probabilities, threshold: float) -> dict[str, float | int]:
    """Return METRICS rounded to six digits, the confusion matrix as counts, and the threshold.

    Args:
        labels: 0 or 1, shape (n,); both occur.
        probabilities: of pneumonia, 0 to 1, shape (n,).
        threshold: 0 to 1; a probability equal to it is called pneumonia.
    """
    values = {name: round(value, 6) for name, value in measure(labels, probabilities, threshold).items()}
    called, ill = probabilities >= threshold, labels == 1
    outcomes = {
        "true_negatives": ~called & ~ill,
        "false_positives": called & ~ill,
        "false_negatives": ~called & ill,
        "true_positives": called & ill,
    }
    counts = {name: int(images.sum()) for name, images in outcomes.items()}
    return values | counts | {"threshold": float(threshold)}


def measure(
    labels: Labels, probabilities: Probabilities, threshold: float | Floats, weights: Floats | None = None
) -> dict[str, float]:
    """Return METRICS of weighted images, not rounded.

    Args:
        labels: 0 or 1, shape (n,).
        probabilities: of pneumonia, 0 to 1, shape (n,).
        threshold: 0 to 1, of all images or of each (n,); a probability equal to it is called pneumonia.
        weights: how often each image counts, 0 or more, shape (n,); once by default.

    Returns:
        NaN for a metric that needs a class that does not occur. Precision is 0 if no image is called pneumonia.
    """
    times = np.ones(len(labels)) if weights is None else weights
    values = prepare_meter(labels, probabilities, threshold)(times[None])[:, 0].tolist()
    no_call = {} if times[probabilities >= threshold].any() else {"precision": 0.0}
    return dict(zip(METRICS, values, strict=True)) | no_call


def assign_bins(probabilities: Probabilities, bins: int = BINS) -> npt.NDArray[np.intp]:
    """Return the bin of each probability: of equal width, closed below, the last one closed on both sides."""
    # Compared with the bounds that are shown: 0.29 * 100 is below 29.
    return np.digitize(probabilities.astype(np.float64), np.arange(1, bins) / bins)


def prepare_meter(labels: Labels, probabilities: Probabilities, threshold: float | Floats) -> Meter:
    """Return a function from weights (resamples, n) to METRICS (metrics, resamples); a resample then costs sums only.

    The definitions are scikit-learn's, except for two. The log loss clips probabilities to [1e-7, 1 - 1e-7]. The
    calibration error is the mean, over images, of the gap between mean probability and share of pneumonia in an
    image's bin (Naeini, Cooper & Hauskrecht 2015, doi:10.1609/aaai.v29i1.9602, with bins of equal width). Guo et al.
    2017 (arXiv:1706.04599, section 3) use the probability of the predicted class; here it is that of pneumonia.

    Args:
        labels: 0 or 1, shape (n,).
        probabilities: of pneumonia, 0 to 1, shape (n,).
        threshold: 0 to 1, of all images or of each (n,); a probability equal to it is called pneumonia.
    """
    p, ill, called = probabilities.astype(np.float64), labels == 1, probabilities >= threshold
    clipped = np.clip(p, 1e-7, 1 - 1e-7)
    losses = -np.log(np.where(ill, clipped, 1 - clipped))
    gaps = (p - ill) * (assign_bins(p) == np.arange(BINS)[:, None])
    terms = np.stack([ill & called, ~ill & called, ill, ~ill, losses, (p - ill) ** 2, *gaps])
    rank = _prepare_ranking(p, ill)

    def meter(weights: Floats) -> Floats:
        # BLAS would round otherwise for other sizes of a block, and its threads wait for each other on a busy machine.
        tp, fp, positives, negatives, loss, squares, *gaps = np.einsum("rf,tf->tr", weights, terms)
        images, (pairs, precisions) = positives + negatives, rank(weights)
        with np.errstate(invalid="ignore"):  # what is undefined is 0 / 0
            return np.stack([
                loss / images, squares / images, np.abs(gaps).sum(axis=0) / images, (tp + negatives - fp) / images,
                pairs / (positives * negatives), precisions / positives,
                2 * tp / (tp + fp + positives), tp / (tp + fp), tp / positives, (negatives - fp) / negatives,
            ])  # fmt: skip

    return meter


def _prepare_ranking(p: Floats, ill: npt.NDArray[np.bool_]) -> Callable[[Floats], tuple[Floats, Floats]]:
    """Return a function from weights to the correctly ordered pairs, and the sum of precisions over images called ill.

    Divided by all pairs, and by all ill images, they are the area under the ROC curve and the average precision.
    """
    rising = np.argsort(p)
    sick, healthy = rising[ill[rising]], rising[~ill[rising]]
    sick_below = np.searchsorted(p[sick], p[sick])
    below, upto = (np.searchsorted(p[healthy], p[sick], side) for side in ("left", "right"))

    def rank(weights: Floats) -> tuple[Floats, Floats]:
        chosen = weights.take(sick, axis=1)
        sick_sums, healthy_sums = _accumulate(chosen), _accumulate(weights.take(healthy, axis=1))
        lower = healthy_sums.take(below, axis=1)
        pairs = (chosen * (lower + healthy_sums.take(upto, axis=1))).sum(axis=1) / 2
        hits = sick_sums[:, -1:] - sick_sums.take(sick_below, axis=1)  # if every image as probable is called
        alarms = healthy_sums[:, -1:] - lower
        return pairs, (chosen * hits / np.where(hits > 0, hits + alarms, 1)).sum(axis=1)

    return rank


def _accumulate(weights: Floats) -> Floats:
    """Return the weight of all images before each, and of all in one more column."""
    return np.pad(weights.cumsum(axis=1), ((0, 0), (1, 0)))


def describe_metrics(metrics: Mapping[str, float]) -> str:
    """Return what a model reaches at its threshold in a line, of metrics as `compute_metrics` returns them."""
    shown = ", ".join(f"{name} {metrics[name]:.4f}" for name in ("roc_auc", "f1", "sensitivity", "specificity"))
    return f"{shown} at threshold {metrics['threshold']:.3g}"
