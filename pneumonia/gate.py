"""Judge a challenger: against floors, and against the champion on test films that neither was trained on."""

import json
from dataclasses import asdict, dataclass

import mlflow
import numpy as np
import pandas as pd
from mlflow.entities.model_registry import ModelVersion

from pneumonia.files import sha256_bytes
from pneumonia.params import Gates
from pneumonia.promotion import MODEL_NAME, find_alias, find_promoter, promote, read_audit
from pneumonia.registry import read_predictions
from pneumonia.tracking import connect


@dataclass(frozen=True)
class Check:
    """One thing a challenger was asked for."""

    what: str
    value: float | str
    bound: float | str
    passed: bool


def check_floors(version: ModelVersion, gates: Gates) -> list[Check]:
    """Compare the test metrics of a version with the floors, its calibration error with the ceiling."""
    bounds = {
        "roc_auc": gates.min_roc_auc,
        "sensitivity": gates.min_sensitivity,
        "specificity": gates.min_specificity,
        "calibration_error": gates.max_calibration_error,
    }
    values = {name: float(version.tags.get(f"test_{name}", "nan")) for name in bounds}  # what is missing fails
    return [
        Check(f"{name} at most", values[name], bound, values[name] <= bound)
        if name == "calibration_error"
        else Check(f"{name} at least", values[name], bound, values[name] >= bound)
        for name, bound in bounds.items()
    ]


def check_against(champion: ModelVersion, challenger: ModelVersion, gates: Gates) -> list[Check]:
    """Compare a challenger with the champion, if what they were trained on and tested with allows it.

    A model of synthetic films never replaces one of real films. The other way round a champion trained on synthetic
    films is no bar: no test film is in common, and floors are all that can be asked for. A model whose split lets
    patients cross never replaces one whose split does not, as it may have seen the patients of its test films.
    """
    pair = {"challenger": challenger, "champion": champion}
    kinds = ["synthetic" if version.tags.get("synthetic") == "True" else "real" for version in pair.values()]
    if kinds[0] != kinds[1]:
        return [Check("trained on films that are", kinds[0], kinds[1], kinds[0] == "real")]
    # As of a version that was registered by hand, or before this project kept them.
    if unknown := [name for name, version in pair.items() if "package_sha256" not in version.tags]:
        return [Check(f"predictions stored with the {' and the '.join(unknown)}", "none", "some", False)]
    leaks = [int(version.tags["crossing_patients"]) for version in pair.values()]
    if leaks[0] and not leaks[1]:
        return [Check("patients on two sides of its split, at most", leaks[0], 0, False)]
    return check_non_inferior(champion, challenger, gates)


def check_non_inferior(champion: ModelVersion, challenger: ModelVersion, gates: Gates) -> list[Check]:
    """Compare a challenger with the champion on the test films of both, each at its own operating point.

    A film in both test splits was in neither training split. Non-inferiority: the paired 95 % interval of the
    difference in ROC AUC, drawn over patients, must lie above minus the margin. There is no comparison across test
    splits: without enough common films of both classes the challenger is refused.
    """
    from pneumonia.intervals import compare_models  # scikit-learn is slow to import, and most commands compare nothing

    films = find_common_films(champion, challenger)
    count, classes = len(films), films["actual"].nunique()
    enough = [
        Check("test films in common with the champion, at least", count, gates.min_common_films,
              count >= gates.min_common_films),
        Check("classes among these films", classes, 2, classes == 2),
    ]  # fmt: skip
    if not all(check.passed for check in enough):
        return enough
    thresholds = (float(champion.tags["test_threshold"]), float(challenger.tags["test_threshold"]))
    said = [films[f"finetuned_{name}"].to_numpy() for name in ("champion", "challenger")]
    actual = films["actual"].to_numpy(np.uint8)
    gains = compare_models(actual, said[0], said[1], thresholds, films["patient_id"].to_numpy())
    low = round(float(gains["low"].to_numpy()[gains.index.get_loc("roc_auc")]), 6)
    return [
        *enough,
        Check("roc_auc above the champion's, lower bound, at least", low, -gates.margin, low >= -gates.margin),
    ]


def find_common_films(champion: ModelVersion, challenger: ModelVersion) -> pd.DataFrame:
    """Return the films, by SHA-256, that are in the test splits of both, with what each says of them."""
    theirs, ours = read_predictions(champion), read_predictions(challenger)
    common = theirs[["sha256", "finetuned"]].merge(ours, on="sha256", suffixes=("_champion", "_challenger"))
    return common.drop_duplicates("sha256")


def judge(version: ModelVersion, champion: ModelVersion | None, gates: Gates) -> list[Check]:
    """Return all that a version is asked for before it becomes champion in place of another."""
    return check_floors(version, gates) + (check_against(champion, version, gates) if champion else [])


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
    evidence = [champion and str(champion.version), version.tags["package_sha256"], gates.model_dump(), undone]
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
        promote_judged(version, champion, checks, "passed all gates")
        stays = f"version {version.version} is the new champion"
    keep_checks(version, checks, key)
    return stays, checks


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
