"""Bound from below how much one model exceeds another, at a level that holds for few images too.

A bootstrap draws only what was seen: where both models make the same mistakes, or none, it finds no variance, and its
interval has no width. Score intervals take the variance that the difference in question would have, not the one seen:
Wilson's for a rate (1927), Tango's for paired rates (1998, Stat. Med. 17:891), Newcombe's for an area under the ROC
curve (2006, Stat. Med. 25:559, method 5). docs/registry.md has their error rates.
"""

from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

from pneumonia.evaluation.intervals import LEVEL, Patients
from pneumonia.evaluation.metrics import Floats, Labels, Probabilities

Z = NormalDist().inv_cdf((1 + LEVEL) / 2)
PRIOR = 100  # patients; chosen by simulation, docs/registry.md


def bound_gains(
    labels: Labels, first: Probabilities, second: Probabilities, thresholds: tuple[float, float], patients: Patients
) -> dict[str, float]:
    """Return the lower bounds of the paired 95 % intervals of what the second model gains over the first.

    Images of a patient are alike, so they count as fewer: their number is divided by the design effect, the variance
    over patients divided by that over images (Kish 1965, "Survey Sampling", section 8.2).

    Args:
        labels: 0 or 1, both occur, shape (n,).
        first: probabilities of pneumonia by the first model, 0 to 1, shape (n,).
        second: the same by the second model.
        thresholds: of the first and of the second model.
        patients: the patient of each image, shape (n,).

    Returns:
        For roc_auc, sensitivity and specificity. All are 0 if nothing tells the two models apart.
    """
    if np.array_equal(first, second) and thresholds[0] == thresholds[1]:
        return dict.fromkeys(("roc_auc", "sensitivity", "specificity"), 0.0)
    ill = labels == 1
    right = [(scores >= threshold) == ill for scores, threshold in zip((first, second), thresholds, strict=True)]
    return {
        "roc_auc": _bound_area(ill, first, second, patients),
        "sensitivity": _bound_rate(right[0][ill], right[1][ill], patients[ill]),
        "specificity": _bound_rate(right[0][~ill], right[1][~ill], patients[~ill]),
    }


def _bound_rate(before: npt.NDArray[np.bool_], after: npt.NDArray[np.bool_], patients: Patients) -> float:
    """Return Tango's bound of a difference of paired rates."""
    _, owners = np.unique(patients, return_inverse=True)
    gains = after.astype(float) - before
    effect = _find_design_effect(gains[None] - gains.mean(), owners)
    lost, won, count = (number / effect for number in ((gains < 0).sum(), (gains > 0).sum(), len(gains)))

    def find_variance(loss: float) -> float:
        # The most probable rate of losses where the true difference is -loss: Tango's equation for q21.
        slope = -lost - won - (2 * count - won + lost) * loss
        rate = (np.sqrt(slope**2 - 8 * count * lost * loss * (1 + loss)) - slope) / (4 * count)
        return (2 * rate - loss * (1 + loss)) / count

    return _solve((won - lost) / count, find_variance)


def _bound_area(ill: npt.NDArray[np.bool_], first: Probabilities, second: Probabilities, patients: Patients) -> float:
    """Return the bound of a difference of areas under the ROC curve.

    Its variance is a mean, weighted by patients, of what is seen over them (Obuchowski 1997, Biometrics 53:567) and of
    what the two areas in question would have, as if that had been seen in PRIOR patients: the latter decides in small
    samples, the former in large ones.
    """
    placed = np.stack([_place(ill, scores) for scores in (first, second)])
    areas = placed[:, ill].mean(axis=1)
    parts = (placed - areas[:, None]) / np.where(ill, ill.sum(), (~ill).sum())
    names, owners = np.unique(patients, return_inverse=True)
    sums = np.stack([np.bincount(owners, part) for part in parts])
    (one, both), (_, other) = sums @ sums.T * len(names) / max(len(names) - 1, 1)
    alike = max(both / np.sqrt(one * other), 0.0) if one * other > 0 else 0.0
    effect = _find_design_effect(parts, owners)
    counts = ill.sum() / effect, (~ill).sum() / effect
    weight = len(names) / (len(names) + PRIOR)

    def find_variance(loss: float) -> float:
        better = min(areas.mean() + loss / 2, 1.0)
        s, t = (_find_spread(area, *counts) for area in (better, max(better - loss, 0.0)))
        return weight * (one + other - 2 * both) + (1 - weight) * (s**2 + t**2 - 2 * alike * s * t)

    return _solve(areas[1] - areas[0], find_variance)


def _find_design_effect(parts: Floats, owners: npt.NDArray[np.intp]) -> float:
    """Return how many images tell as much as one image of a patient with no other; `parts` have the mean 0."""
    most = len(owners) / (owners.max() + 1)
    apart = (parts**2).sum()
    together = sum((np.bincount(owners, part) ** 2).sum() for part in parts)
    return float(np.clip(together / apart, 1, most)) if apart > 0 else most


def _place(ill: npt.NDArray[np.bool_], scores: Probabilities) -> Floats:
    """Return for each image the share of the other class that is ranked on its right side, ties by half."""
    shares = np.empty(len(scores))
    for mine in (ill, ~ill):
        others = np.sort(scores[~mine])
        below = sum(np.searchsorted(others, scores[mine], side) for side in ("left", "right")) / 2 / len(others)
        shares[mine] = below if mine is ill else 1 - below
    return shares


def _find_spread(area: float, ill: float, healthy: float) -> float:
    """Return the standard deviation of an area (Hanley & McNeil 1982, Radiology 143:29), symmetric as Newcombe's."""
    more = (ill + healthy) / 2 - 1
    factor = 1 + more * ((1 - area) / (2 - area) + area / (1 + area))
    return float(np.sqrt(area * (1 - area) * factor / (ill * healthy)))


def _solve(gain: float, find_variance: Callable[[float], float]) -> float:
    """Return minus the largest loss that is not further from what was seen than Z of its own standard deviations."""

    def exceed(loss: float) -> float:
        return gain + loss - Z * np.sqrt(max(find_variance(loss), 0.0))

    nearest = 1e-9 - gain  # what was seen itself is often a root too, the smallest
    if exceed(nearest) >= 0:
        return gain
    return -float(brentq(exceed, nearest, 1.0)) if exceed(1.0) > 0 else -1.0  # pyright: ignore[reportArgumentType]
