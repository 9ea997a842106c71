"""Estimate how far clinical metrics would move with other patients."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pneumonia.evaluation.metrics import METRICS, Floats, Labels, Meter, Probabilities, measure, prepare_meter

LEVEL = 0.95  # share of resamples inside an interval
# The calibration error is biased upwards, most where it is small, and resampling adds the same bias once more. No
# bootstrap interval came near its nominal coverage (docs/evaluation.md, "Intervals"), so none is given.
NO_INTERVAL = ("calibration_error",)
BLOCK = 2**16  # weights at a time: half a megabyte an array, so that the dozen of them stays near the processor

Patients = npt.NDArray[Any]


def measure_intervals(
    labels: Labels, probabilities: Probabilities, threshold: float, patients: Patients,
    resamples: int = 2000, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Return every metric with its percentile interval from a bootstrap over patients.

    Percentile interval: Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13. Images of one patient
    are alike, so whole patients are drawn: the cluster bootstrap of Field & Welsh 2007, J. R. Stat. Soc. B 69:369. A
    resample in which a metric is undefined (a class is missing, no image is called) does not count for that metric.

    Args:
        labels: 0 or 1, shape (n,).
        probabilities: of pneumonia, 0 to 1, shape (n,).
        threshold: 0 to 1. It is taken as given: intervals do not include the uncertainty of choosing it.
        patients: the patient of each image, shape (n,).
        resamples: how many to draw.
        seed: of the draw, which follows the sorted names of patients: the order of images does not matter.

    Returns:
        Columns value (of the images themselves), low and high, indexed by METRICS. Both bounds are NaN for NO_INTERVAL,
        and where no resample counts.
    """
    meter = prepare_meter(labels, probabilities, threshold)
    return resample(meter, measure(labels, probabilities, threshold), patients, resamples, seed)


def compare_models(
    labels: Labels, first: Probabilities, second: Probabilities, thresholds: tuple[float, float], patients: Patients,
    resamples: int = 2000, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Return how much the second model exceeds the first, with paired intervals; otherwise as `measure_intervals`.

    Both models are measured on the same drawn patients, so what makes an image hard for both cancels out.

    Args:
        labels: 0 or 1, shape (n,).
        first: probabilities of pneumonia by the first model, 0 to 1, shape (n,).
        second: the same by the second model.
        thresholds: of the first and of the second model.
        patients: the patient of each image, shape (n,).
        resamples: how many to draw.
        seed: of the draw.
    """
    before, after = (prepare_meter(labels, *model) for model in zip((first, second), thresholds, strict=True))
    old, new = (measure(labels, *model) for model in zip((first, second), thresholds, strict=True))
    gains = {name: new[name] - old[name] for name in METRICS}
    return resample(lambda weights: after(weights) - before(weights), gains, patients, resamples, seed)


def resample(meter: Meter, values: Mapping[str, float], patients: Patients, resamples: int, seed: int) -> pd.DataFrame:
    """Return values with the intervals of what `meter` measures on drawn patients; otherwise as `measure_intervals`.

    Args:
        meter: returns METRICS, or a difference or mean of them, for weighted images.
        values: of the images themselves, by METRICS.
        patients: the patient of each image, shape (n,).
        resamples: how many to draw.
        seed: of the draw.
    """
    drawn = np.hstack([meter(weights) for weights in draw_weights(patients, resamples, seed)])
    rows = [
        (values[name], *((np.nan, np.nan) if name in NO_INTERVAL else find_bounds(figures)))
        for name, figures in zip(METRICS, drawn, strict=True)
    ]
    return pd.DataFrame(rows, pd.Index(METRICS, name="metric"), ["value", "low", "high"])


def find_bounds(figures: Floats) -> tuple[float, float]:
    """Return the percentile interval of what resamples gave, (resamples,); NaN does not count, and is of nothing."""
    defined = figures[~np.isnan(figures)]
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if len(defined) else (np.nan, np.nan)
    return float(low), float(high)


def draw_weights(patients: Patients, resamples: int, seed: int) -> Iterator[Floats]:
    """Yield how often each image is drawn with its patient, shape (some of the resamples, images)."""
    names, owners = np.unique(patients, return_inverse=True)
    rng, size = np.random.default_rng(seed), max(1, BLOCK // len(patients))
    for start in range(0, resamples, size):
        rows = np.arange(min(size, resamples - start))[:, None]
        # Ten times as fast as Generator.multinomial, which draws a binomial number for every patient.
        drawn = rng.integers(len(names), size=(len(rows), len(names))) + len(names) * rows
        counts = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
        yield counts.astype(np.float64).take(owners, axis=1)
