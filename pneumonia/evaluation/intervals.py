"""Clinical metrics of weighted images, and how far they would move with other patients."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pneumonia.evaluation.metrics import Labels, Probabilities

LEVEL = 0.95  # share of resamples inside an interval
METRICS = (
    *("loss", "brier", "calibration_error", "accuracy", "roc_auc", "pr_auc"),
    *("f1", "precision", "sensitivity", "specificity"),
)
BINS = 10  # of calibration_error, as wide each
BLOCK = 2**16  # weights at a time: half a megabyte an array, so that the dozen of them stays near the processor

Patients = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Meter = Callable[[Floats], Floats]  # weights (resamples, images) -> figures (METRICS, resamples), NaN where undefined


def measure(
    labels: Labels, probabilities: Probabilities, threshold: float, weights: Floats | None = None
) -> dict[str, float]:
    """Return every metric of METRICS as metrics.compute_metrics does, but unrounded and of weighted images.

    Args:
        labels: 0 or 1, shape (n,).
        probabilities: of pneumonia, 0 to 1, shape (n,).
        threshold: between 0 and 1, itself called pneumonia.
        weights: how often each image counts, 0 or more, shape (n,); once by default.

    Returns:
        NaN for what needs a class that does not occur. Precision is 0 where nothing is called.
    """
    times = np.ones(len(labels)) if weights is None else weights
    figures = _prepare_meter(labels, probabilities, threshold)(times[None])[:, 0].tolist()
    no_call = {} if times[probabilities >= threshold].any() else {"precision": 0.0}
    return dict(zip(METRICS, figures, strict=True)) | no_call


def measure_intervals(
    labels: Labels, probabilities: Probabilities, threshold: float, patients: Patients,
    resamples: int = 2000, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Return every metric with its percentile interval from a bootstrap over patients.

    Percentile interval: Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13. Images of a patient are
    alike, so patients are drawn with all of theirs: the cluster bootstrap of Field & Welsh 2007, J. R. Stat. Soc. B
    69:369. A resample in which a metric is undefined (a class is missing, nothing is called) does not count for it.

    Args:
        labels: 0 or 1, shape (n,).
        probabilities: of pneumonia, 0 to 1, shape (n,).
        threshold: between 0 and 1. It stays, so that choosing it on few images adds nothing to the intervals.
        patients: whose image it is, shape (n,).
        resamples: how many to draw.
        seed: of the draw, which goes by the sorted names of patients: the order of images does not matter.

    Returns:
        value (of the images themselves), low and high, indexed by metric; without a resample that counts both are NaN.
    """
    meter = _prepare_meter(labels, probabilities, threshold)
    drawn = [meter(weights) for weights in _draw_weights(patients, resamples, seed)]
    return _tabulate(measure(labels, probabilities, threshold), np.hstack(drawn))


def compare_models(
    labels: Labels, first: Probabilities, second: Probabilities, thresholds: tuple[float, float], patients: Patients,
    resamples: int = 2000, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Return by how much the second model exceeds the first, with paired intervals; else as `measure_intervals`.

    Both are measured on the same drawn patients, so what is hard for both moves neither difference nor interval.

    Args:
        labels, patients, resamples, seed: as there.
        first, second: probabilities of pneumonia by each model, 0 to 1, shape (n,).
        thresholds: of the first and of the second model.
    """
    before, after = (_prepare_meter(labels, *model) for model in zip((first, second), thresholds, strict=True))
    drawn = [after(weights) - before(weights) for weights in _draw_weights(patients, resamples, seed)]
    old, new = (measure(labels, *model) for model in zip((first, second), thresholds, strict=True))
    return _tabulate({name: new[name] - old[name] for name in METRICS}, np.hstack(drawn))


def _tabulate(values: Mapping[str, float], drawn: Floats) -> pd.DataFrame:
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    defined = [figures[~np.isnan(figures)] for figures in drawn]
    bounds = [np.quantile(figures, tails) if len(figures) else (np.nan, np.nan) for figures in defined]
    rows = [(values[name], *ends) for name, ends in zip(METRICS, bounds, strict=True)]
    return pd.DataFrame(rows, pd.Index(METRICS, name="metric"), ["value", "low", "high"])


def _draw_weights(patients: Patients, resamples: int, seed: int) -> Iterator[Floats]:
    """Yield how often each image is drawn, shape (some of the resamples, images)."""
    names, owners = np.unique(patients, return_inverse=True)
    rng, size = np.random.default_rng(seed), max(1, BLOCK // len(patients))
    for start in range(0, resamples, size):
        rows = np.arange(min(size, resamples - start))[:, None]
        # Ten times as fast as Generator.multinomial, which draws a binomial number for every patient.
        drawn = rng.integers(len(names), size=(len(rows), len(names))) + len(names) * rows
        counts = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
        yield counts.astype(np.float64).take(owners, axis=1)


def _prepare_meter(labels: Labels, probabilities: Probabilities, threshold: float) -> Meter:
    """Sort and classify the images once, so that a resample costs sums only."""
    p, ill = probabilities.astype(np.float64), labels == 1
    called, bins = probabilities >= threshold, np.digitize(p, np.arange(1, BINS) / BINS)
    clipped = np.clip(p, 1e-7, 1 - 1e-7)
    losses = -np.log(np.where(ill, clipped, 1 - clipped))
    gaps = (p - ill) * (bins == np.arange(BINS)[:, None])
    terms = np.stack([ill & called, ~ill & called, ill, ~ill, losses, (p - ill) ** 2, *gaps])
    rising = np.argsort(p)
    sick, healthy = rising[ill[rising]], rising[~ill[rising]]
    sick_below = np.searchsorted(p[sick], p[sick])
    below, upto = (np.searchsorted(p[healthy], p[sick], side) for side in ("left", "right"))

    def meter(weights: Floats) -> Floats:
        # BLAS would round otherwise for other sizes of a block, and its threads wait for each other on a busy machine.
        tp, fp, positives, negatives, loss, squares, *gaps = np.einsum("rf,tf->tr", weights, terms)
        images, chosen = positives + negatives, weights.take(sick, axis=1)
        sick_sums, healthy_sums = _accumulate(chosen), _accumulate(weights.take(healthy, axis=1))
        lower = healthy_sums.take(below, axis=1)
        pairs = (chosen * (lower + healthy_sums.take(upto, axis=1))).sum(axis=1) / 2
        hits = sick_sums[:, -1:] - sick_sums.take(sick_below, axis=1)  # if every image as probable is called
        alarms = healthy_sums[:, -1:] - lower
        precisions = (chosen * hits / np.where(hits > 0, hits + alarms, 1)).sum(axis=1)
        with np.errstate(invalid="ignore"):  # what is undefined is 0 / 0
            return np.stack([
                loss / images, squares / images, np.abs(gaps).sum(axis=0) / images, (tp + negatives - fp) / images,
                pairs / (positives * negatives), precisions / positives,
                2 * tp / (tp + fp + positives), tp / (tp + fp), tp / positives, (negatives - fp) / negatives,
            ])  # fmt: skip

    return meter


def _accumulate(weights: Floats) -> Floats:
    """Return the weight of all images before each, and of all in one more column."""
    return np.pad(weights.cumsum(axis=1), ((0, 0), (1, 0)))
