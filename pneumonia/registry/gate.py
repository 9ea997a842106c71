"""Judge a challenger: against floors, and against the champion on test images that neither was trained on."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial

import mlflow
import numpy as np
import pandas as pd
from mlflow.entities.model_registry import ModelVersion

from pneumonia.core.errors import InputError
from pneumonia.core.files import sha256_bytes
from pneumonia.core.params import Gates
from pneumonia.registry.promotion import MODEL_NAME, find_alias, find_promoter, promote, read_audit
from pneumonia.registry.versions import read_predictions
from pneumonia.tracking.connection import connect


@dataclass(frozen=True)
class Check:
    """One thing a challenger was asked for."""

    what: str
    value: float | str
    bound: float | str
    passed: bool


@dataclass(frozen=True)
class Evidence:
    """What a model is judged by.

    Attributes:
        name: to call it by.
        metrics: of its own test split, its threshold among them; what is missing counts as not reached.
        synthetic: whether its images are.
        crossing_patients: how many patients are on two sides of its split.
        read: returns what it says of each of its test images, see the evaluate stage; None where that was not kept.
    """

    name: str
    metrics: Mapping[str, float]
    synthetic: bool
    crossing_patients: int
    read: Callable[[], pd.DataFrame] | None


def find_evidence(version: ModelVersion, name: str) -> Evidence:
    """Return what was registered with a version; without a digest, as by hand, there are no predictions."""
    metrics = {tag.removeprefix("test_"): float(value) for tag, value in version.tags.items() if tag[:5] == "test_"}
    crossing = int(version.tags.get("crossing_patients", "0"))
    read = partial(read_predictions, version) if "package_sha256" in version.tags else None
    return Evidence(name, metrics, version.tags.get("synthetic") == "True", crossing, read)


def check_floors(model: Evidence, gates: Gates) -> list[Check]:
    """Compare the test metrics of a model with the floors, its calibration error with the ceiling."""
    bounds = {
        "roc_auc": gates.min_roc_auc,
        "sensitivity": gates.min_sensitivity,
        "specificity": gates.min_specificity,
        "calibration_error": gates.max_calibration_error,
    }
    values = {name: model.metrics.get(name, float("nan")) for name in bounds}
    return [
        Check(f"{name} at most", values[name], bound, values[name] <= bound)
        if name == "calibration_error"
        else Check(f"{name} at least", values[name], bound, values[name] >= bound)
        for name, bound in bounds.items()
    ]


def check_against(champion: Evidence, challenger: Evidence, gates: Gates) -> list[Check]:
    """Compare a challenger with the champion, if what they were trained on and tested with allows it.

    A model of synthetic images never replaces one of real images. The other way round a champion trained on synthetic
    images is no bar: no test image is in common, and floors are all that can be asked for. A model whose split lets
    patients cross never replaces one whose split does not, as it may have seen the patients of its test images.
    """
    pair = (challenger, champion)
    kinds = ["synthetic" if model.synthetic else "real" for model in pair]
    if kinds[0] != kinds[1]:
        return [Check("trained on images that are", kinds[0], kinds[1], kinds[0] == "real")]
    if unknown := [model.name for model in pair if not model.read]:
        return [Check(f"predictions stored with {' and '.join(unknown)}", "none", "some", False)]
    if challenger.crossing_patients and not champion.crossing_patients:
        return [Check("patients on two sides of its split, at most", challenger.crossing_patients, 0, False)]
    return check_non_inferior(champion, challenger, gates)


def check_non_inferior(champion: Evidence, challenger: Evidence, gates: Gates) -> list[Check]:
    """Compare a challenger with the champion on the test images of both, each at its own operating point.

    An image in both test splits was in neither training split. Non-inferiority: the paired 95 % interval of the
    difference in ROC AUC, drawn over patients, must lie above minus the margin. There is no comparison across test
    splits: without enough common images of both classes the challenger is refused.
    """
    images = find_common_images(champion, challenger)
    count, classes = len(images), images["actual"].nunique()
    enough = [
        Check(f"test images in common with {champion.name}, at least", count, gates.min_common_images,
              count >= gates.min_common_images),
        Check("classes among these images", classes, 2, classes == 2),
    ]  # fmt: skip
    if not all(check.passed for check in enough):
        return enough
    gains = measure_gains(images, champion, challenger)
    low = round(float(gains["low"].to_numpy()[gains.index.get_loc("roc_auc")]), 6)
    what = f"roc_auc above {champion.name}'s, lower bound, at least"
    return [*enough, Check(what, low, -gates.margin, low >= -gates.margin)]


def find_common_images(champion: Evidence, challenger: Evidence) -> pd.DataFrame:
    """Return the images, by SHA-256, that are in the test splits of both, with what each says of them.

    Raises:
        InputError: the predictions of one of them cannot be read.
    """
    assert champion.read and challenger.read
    theirs, ours = champion.read(), challenger.read()
    common = theirs[["sha256", "finetuned"]].merge(ours, on="sha256", suffixes=("_champion", "_challenger"))
    return common.drop_duplicates("sha256")


def measure_gains(images: pd.DataFrame, champion: Evidence, challenger: Evidence) -> pd.DataFrame:
    """Return by how much the challenger exceeds the champion on common images, see `intervals.compare_models`."""
    from pneumonia.evaluation.intervals import (
        compare_models,  # scikit-learn is slow to import, and most commands compare nothing
    )

    said = [images[f"finetuned_{name}"].to_numpy() for name in ("champion", "challenger")]
    thresholds = (champion.metrics["threshold"], challenger.metrics["threshold"])
    actual = images["actual"].to_numpy(np.uint8)
    return compare_models(actual, said[0], said[1], thresholds, images["patient_id"].to_numpy())


def judge(version: ModelVersion, champion: ModelVersion | None, gates: Gates) -> list[Check]:
    """Return all that a version is asked for before it becomes champion in place of another."""
    model = find_evidence(version, "the challenger")
    against = check_against(find_evidence(champion, "the champion"), model, gates) if champion else []
    return check_floors(model, gates) + against


def consider(version: ModelVersion, gates: Gates) -> tuple[str, list[Check]]:
    """Decide whether a version becomes champion, and promote it if so; what was decided is not decided again.

    Returns:
        The outcome in a sentence, and what was checked.

    Raises:
        PromotionRefusedError: another version became champion in the meantime.
    """
    connect()
    champion = find_alias("champion")
    if champion and champion.version == version.version:
        return f"everything is up to date, version {version.version} is the champion", read_checks(version)
    undone = was_rolled_back(version)
    allowed = may_promote()
    evidence = [champion and str(champion.version), version.tags["package_sha256"], gates.model_dump(), undone, allowed]
    key = sha256_bytes(json.dumps(evidence).encode())
    stays = f"version {version.version} stays challenger" + (
        f", champion is version {champion.version}" if champion else ""
    )
    if version.tags.get("checked") == key:
        return f"everything is up to date, {stays}", read_checks(version)
    checks = judge(version, champion, gates)
    if undone:  # for what no gate sees, so a person decides
        checks.append(Check("rolled back since it was champion", "yes", "no", False))
    if all(check.passed for check in checks):
        if allowed:
            promote_judged(version, champion, checks, "passed all gates")
            stays = f"version {version.version} is the new champion"
        else:
            stays += "; it passed all gates, but PNEUMONIA_PROMOTE is false"
    keep_checks(version, checks, key)
    return stays, checks


def may_promote() -> bool:
    """Tell whether this environment may make a version champion: PNEUMONIA_PROMOTE, true unless it is set.

    Raises:
        InputError: it is neither true nor false.
    """
    said = os.environ.get("PNEUMONIA_PROMOTE", "") or "true"
    if said not in ("true", "false"):
        raise InputError(
            f"PNEUMONIA_PROMOTE is {said!r}.", expected="true or false", remedy="set it to one, or unset it"
        )
    return said == "true"


def was_rolled_back(version: ModelVersion) -> bool:
    """Tell whether the last move of the alias champion that concerns a version took it away again."""
    number = str(version.version)
    moves = [move for move in read_audit() if move["took_place"] and number in (move["version"], move["former"])]
    return bool(moves) and moves[-1]["action"] == "rollback" and moves[-1]["former"] == number


def promote_judged(
    version: ModelVersion, champion: ModelVersion | None, checks: list[Check], reason: str, forced: bool = False
) -> None:
    """Make a version champion in place of the one that it was judged against; the checks are the evidence."""
    evidence = {check.what: [check.value, check.bound, check.passed] for check in checks}
    expected = str(champion.version) if champion else None
    promote(str(version.version), expected, reason, evidence, find_promoter(), forced)


def keep_checks(version: ModelVersion, checks: list[Check], key: str) -> None:
    """Keep with a version what it was asked for, and under what conditions."""
    client = mlflow.MlflowClient()
    client.set_model_version_tag(MODEL_NAME, version.version, "checks", json.dumps([asdict(check) for check in checks]))
    client.set_model_version_tag(MODEL_NAME, version.version, "checked", key)


def read_checks(version: ModelVersion) -> list[Check]:
    """Return what a version was last asked for."""
    return [Check(**check) for check in json.loads(version.tags.get("checks", "[]"))]
