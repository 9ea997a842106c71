"""The checks of the gate: floors, and a comparison with another model on test images that neither was trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from pneumonia.core.params import Gates
from pneumonia.core.tables import tell_apart
from pneumonia.registry.evidence import Evidence, estimate_gains, find_common_images, find_lower_bounds


@dataclass(frozen=True)
class Check:
    """One requirement, and whether a challenger meets it."""

    what: str
    value: int | float | str
    bound: int | float | str
    passed: bool


def check_all(
    challenger: Evidence, champion: Evidence | None, earlier: Sequence[Evidence], gates: Gates
) -> list[Check]:
    """Check all that a challenger has to meet before it replaces the champion; docs/registry.md states the rule.

    Args:
        challenger: on what it is judged.
        champion: the present one, None if there is none.
        earlier: champions before it that nobody rolled back.
        gates: what a champion has to reach.

    Raises:
        InputError: the predictions of a model cannot be read.
    """
    checks = check_floors(challenger, gates)
    if champion is None:
        return checks
    checks += check_against(champion, challenger, gates)
    if not can_compare(champion, challenger, gates):
        return checks
    return [*checks, check_gain(champion, challenger), *check_lineage(champion, earlier, challenger, gates)]


def check_floors(model: Evidence, gates: Gates) -> list[Check]:
    """Compare the test metrics of a model with their floors, its calibration error with the ceiling."""
    floors = {"roc_auc": gates.min_roc_auc, "sensitivity": gates.min_sensitivity, "specificity": gates.min_specificity}
    checks = []
    for metric, floor in floors.items():
        value = model.metrics.get(metric, float("nan"))
        checks.append(Check(f"{metric} at least", value, floor, value >= floor))
    error, ceiling = model.metrics.get("calibration_error", float("nan")), gates.max_calibration_error
    return [*checks, Check("calibration_error at most", error, ceiling, error <= ceiling)]


def check_against(champion: Evidence, challenger: Evidence, gates: Gates) -> list[Check]:
    """Check that a challenger is not inferior to the champion, where the two can be compared.

    A model of synthetic images never replaces one of real images. The other way round, the champion sets no bar: the
    two have no test image in common, and only the floors remain. A model whose splits share patients, or may share
    them as patients are unknown, never replaces one whose splits do not: it may have been trained on the patients of
    its test images. Nor does a model of another split: of ten seeds one is kind to it, and who tries them chooses on
    the test images.

    Raises:
        InputError: the predictions of one of them cannot be read.
    """
    pair = (challenger, champion)
    kinds = ["synthetic" if model.synthetic else "real" for model in pair]
    if kinds[0] != kinds[1]:
        return [Check("trained on images that are", kinds[0], kinds[1], kinds[0] == "real")]
    if unknown := [model.name for model in pair if not model.read]:
        return [Check(f"predictions stored with {' and '.join(unknown)}", "none", "some", False)]
    if challenger.splits_patients and not champion.splits_patients:
        crossing = "unknown" if challenger.crossing_patients is None else challenger.crossing_patients
        return [Check("patients in more than one split, at most", crossing, 0, False)]
    same = Check("split drawn as", challenger.split, champion.split, challenger.split == champion.split)
    enough = check_common(champion, challenger, gates)
    if not all(check.passed for check in enough):
        return [same, *enough]
    return [same, *enough, *check_non_inferior(champion, challenger, find_margins(gates))]


def check_common(champion: Evidence, challenger: Evidence, gates: Gates) -> list[Check]:
    """Check that two models have enough test images and patients in common, of each class."""
    images = find_common_images(champion, challenger)
    patients = [tell_apart(images[images["actual"] == label]).nunique() for label in (0, 1)]
    found = {
        f"test images in common with {champion.name}, at least": (len(images), gates.min_common_images),
        "patients among these, of either class, at least": (min(patients), gates.min_common_patients),
    }
    return [Check(what, count, least, count >= least) for what, (count, least) in found.items()]


def check_non_inferior(champion: Evidence, challenger: Evidence, margins: Mapping[str, float]) -> list[Check]:
    """Check that a challenger loses no more than a margin in each metric, each model at its own operating point.

    Non-inferiority: the lower bound of the paired 95 % interval of the difference, see `bound_gains`, is at least minus
    the margin. As all checks have to pass, testing several metrics needs no correction (intersection-union test: Berger
    1982, Technometrics 24:295).
    """
    images = find_common_images(champion, challenger)
    bounds = find_lower_bounds(images, champion, challenger)
    lows = {metric: round(float(bounds[metric]), 6) for metric in margins}
    what = f"minus {champion.name}'s, lower bound, at least"
    return [
        Check(f"{metric} {what}", lows[metric], -margin, lows[metric] >= -margin) for metric, margin in margins.items()
    ]


def check_gain(champion: Evidence, challenger: Evidence) -> Check:
    """Check that the ROC AUC of a challenger on common images is above the champion's: a tie keeps the champion."""
    gain = round(estimate_gains(champion, challenger)["roc_auc"], 9)
    return Check(f"roc_auc minus {champion.name}'s, above", gain, 0.0, gain > 0)


def check_lineage(champion: Evidence, earlier: Sequence[Evidence], challenger: Evidence, gates: Gates) -> list[Check]:
    """Check that a challenger is not inferior to the best of all champions so far, in each metric the best in that.

    What the champion was compared with already is not repeated. An earlier champion without predictions, without enough
    test images in common, or whose split shares patients while the challenger's does not or vice versa, sets no bar.
    """
    able = [champion] + [
        one for one in earlier
        if one.splits_patients == challenger.splits_patients and can_compare(one, challenger, gates)
    ]  # fmt: skip
    gains = [estimate_gains(one, challenger) for one in able]
    checks = []
    for metric, margin in find_margins(gates).items():
        best = min(range(len(able)), key=lambda index: gains[index][metric])
        if best:
            checks += check_non_inferior(able[best], challenger, {metric: margin})
    return checks


def find_margins(gates: Gates) -> dict[str, float]:
    """Return by how much a challenger may be inferior, by metric."""
    return {
        "roc_auc": gates.margin_roc_auc,
        "sensitivity": gates.margin_sensitivity,
        "specificity": gates.margin_specificity,
    }


def can_compare(champion: Evidence, challenger: Evidence, gates: Gates) -> bool:
    """Tell whether two models have enough test images of the same kind and of both classes in common."""
    if champion.synthetic != challenger.synthetic or not (champion.read and challenger.read):
        return False
    return all(check.passed for check in check_common(champion, challenger, gates))


def tabulate(checks: list[Check]) -> str:
    """Return checks as a table to print."""
    return pd.DataFrame([vars(check) for check in checks]).to_string(index=False)
