"""The checks of the gate: floors, and a comparison with another model on test images that neither was trained on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pneumonia.core.params import Gates
from pneumonia.core.tables import tell_apart
from pneumonia.evaluation.bounds import bound_gains
from pneumonia.evaluation.intervals import compare_models
from pneumonia.evaluation.metrics import measure


@dataclass(frozen=True)
class Check:
    """One requirement, and whether a challenger meets it."""

    what: str
    value: float | str
    bound: float | str
    passed: bool


@dataclass(frozen=True)
class Evidence:
    """What a model is judged by.

    Attributes:
        name: how checks refer to the model.
        metrics: of its own test split, its threshold among them; a missing one counts as not reached.
        synthetic: whether it was trained on synthetic images.
        crossing_patients: how many patients have images in more than one of its splits, None if that is unknown.
        split: how its splits were drawn, see `describe_split`.
        read: returns its predictions on its test images, as the evaluate stage wrote them; None if none are stored.
    """

    name: str
    metrics: Mapping[str, float]
    synthetic: bool
    crossing_patients: int | None
    split: str
    read: Callable[[], pd.DataFrame] | None

    @property
    def splits_patients(self) -> bool:
        """Tell whether images of a patient may be in more than one of its splits."""
        return self.crossing_patients != 0


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
    bounds = bound_gains(*_arrange(images, champion, challenger))
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


def find_common_images(champion: Evidence, challenger: Evidence) -> pd.DataFrame:
    """Return the images, by SHA-256, that are in the test splits of both, with the predictions of both.

    An image in both test splits is in neither training split, so neither model was trained on it.

    Returns:
        The challenger's table with the probabilities of pneumonia as finetuned_champion and finetuned_challenger.

    Raises:
        InputError: the predictions of one of them cannot be read.
    """
    assert champion.read and challenger.read
    theirs, ours = champion.read(), challenger.read()
    common = theirs[["sha256", "finetuned"]].merge(ours, on="sha256", suffixes=("_champion", "_challenger"))
    return common.drop_duplicates("sha256")


def measure_gains(images: pd.DataFrame, champion: Evidence, challenger: Evidence) -> pd.DataFrame:
    """Return by how much the challenger exceeds the champion on common images, see `intervals.compare_models`."""
    return compare_models(*_arrange(images, champion, challenger))


def _arrange(images: pd.DataFrame, champion: Evidence, challenger: Evidence) -> tuple[Any, Any, Any, Any, Any]:
    # As `compare_models` and `bound_gains` take it.
    scores = [images[f"finetuned_{name}"].to_numpy() for name in ("champion", "challenger")]
    thresholds = (champion.metrics["threshold"], challenger.metrics["threshold"])
    return images["actual"].to_numpy(np.uint8), *scores, thresholds, tell_apart(images).to_numpy()


def estimate_gains(champion: Evidence, challenger: Evidence) -> dict[str, float]:
    """Return by how much the challenger exceeds the champion in each metric on common images, without intervals."""
    images = find_common_images(champion, challenger)
    theirs, ours = (
        measure(images["actual"].to_numpy(np.uint8), images[f"finetuned_{name}"].to_numpy(), model.metrics["threshold"])
        for name, model in (("champion", champion), ("challenger", challenger))
    )
    return {metric: value - theirs[metric] for metric, value in ours.items()}


def describe_split(split: Mapping[str, Any]) -> str:
    """Return how splits are drawn, in a line, from the section `split` of params.yaml."""
    return f"{split['strategy']} {'/'.join(map(str, split['ratios'].values()))} seed {split['seed']}"


def tabulate(checks: list[Check]) -> str:
    """Return checks as a table to print."""
    return pd.DataFrame([vars(check) for check in checks]).to_string(index=False)
