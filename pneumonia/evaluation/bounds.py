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


def bound_gains(
    labels: Labels, first: Probabilities, second: Probabilities, thresholds: tuple[float, float], patients: Patients
) -> dict[str, float]:
    """Return the lower bounds of the paired 95 % intervals of what the second model gains over the first.

    Images of a patient are alike, so no more is concluded from them than their patients would allow if they were equal.

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
    """Return Tango's bound of a difference of paired rates, with as many observations as there are patients."""
    count = len(np.unique(patients))
    share = count / len(patients)
    lost, won = share * (before & ~after).sum(), share * (~before & after).sum()

    def find_variance(loss: float) -> float:
        # The most probable rate of losses where the true difference is -loss: Tango's equation for q21.
        slope = -lost - won - (2 * count - won + lost) * loss
        rate = (np.sqrt(slope**2 - 8 * count * lost * loss * (1 + loss)) - slope) / (4 * count)
        return (2 * rate - loss * (1 + loss)) / count

    return _solve((won - lost) / count, find_variance)


def _bound_area(ill: npt.NDArray[np.bool_], first: Probabilities, second: Probabilities, patients: Patients) -> float:
    """Return the score bound of a difference of areas under the ROC curve.

    The variance of each area is that of Hanley & McNeil (1982, Radiology 143:29) at the areas in question, symmetric as
    Newcombe takes it. The correlation of the two is estimated over patients (Obuchowski 1997, Biometrics 53:567).
    """
    placed = np.stack([_place(ill, scores) for scores in (first, second)])
    areas = placed[:, ill].mean(axis=1)
    parts = np.where(ill, (placed - areas[:, None]) / ill.sum(), (placed - areas[:, None]) / (~ill).sum())
    _, owners = np.unique(patients, return_inverse=True)
    sums = np.stack([np.bincount(owners, part) for part in parts])
    (one, both), (_, other) = sums @ sums.T
    alike = max(both / np.sqrt(one * other), 0.0) if one * other > 0 else 0.0
    counts = len(np.unique(patients[ill])), len(np.unique(patients[~ill]))

    def find_variance(loss: float) -> float:
        better = min(areas.mean() + loss / 2, 1.0)
        spreads = [_find_area_spread(area, *counts) for area in (better, max(better - loss, 0.0))]
        return spreads[0] ** 2 + spreads[1] ** 2 - 2 * alike * spreads[0] * spreads[1]

    return _solve(areas[1] - areas[0], find_variance)


def _place(ill: npt.NDArray[np.bool_], scores: Probabilities) -> Floats:
    """Return for each image the share of the other class that is ranked on its right side, ties by half."""
    shares = np.empty(len(scores))
    for mine in (ill, ~ill):
        others = np.sort(scores[~mine])
        below = sum(np.searchsorted(others, scores[mine], side) for side in ("left", "right")) / 2 / len(others)
        shares[mine] = below if mine is ill else 1 - below
    return shares


def _find_area_spread(area: float, ill: int, healthy: int) -> float:
    more = (ill + healthy) / 2 - 1
    factor = 1 + more * ((1 - area) / (2 - area) + area / (1 + area))
    return float(np.sqrt(area * (1 - area) * factor / (ill * healthy)))


def _solve(gain: float, find_variance: Callable[[float], float]) -> float:
    """Return minus the largest loss that is not further from what was seen than Z of its own standard deviations."""

    def exceed(loss: float) -> float:
        return gain + loss - Z * np.sqrt(max(find_variance(loss), 0.0))

    return -float(brentq(exceed, -gain, 1.0)) if exceed(1.0) > 0 else -1.0
