"""Register a model, judge it, and promote it if it passes."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import mlflow
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion

from pneumonia.core.errors import InputError
from pneumonia.core.files import project_home, sha256_bytes
from pneumonia.core.params import Gates
from pneumonia.registry.audit import find_promoter, read_trail
from pneumonia.registry.checks import Check, check_all, tabulate
from pneumonia.registry.evidence import find_evidence
from pneumonia.registry.lock import PromotionRefusedError, sweep_locks
from pneumonia.registry.package import Package, register_package
from pneumonia.registry.promotion import promote
from pneumonia.registry.versions import MODEL_NAME, find_alias, list_versions, read_json
from pneumonia.tracking.connection import connect
from pneumonia.tracking.failures import reaching


@reaching("registering the model")
def submit(run: Run, package: Package, tags: dict[str, str], notice: str, gates: Gates) -> str:
    """Register a package and consider it for promotion, if this run may register; print the checks.

    Args:
        run: the fine-tune run that made the model.
        package, tags, notice: see `register_package`.
        gates: what a champion has to reach.

    Returns:
        The outcome in a line.
    """
    if may_register():
        outcome, checks = consider(register_package(run, package, tags, notice), gates)
        print(tabulate(checks))
    elif os.environ.get("PNEUMONIA_REGISTER"):
        outcome = "no version registered, PNEUMONIA_REGISTER is false"
    else:
        outcome = "no version registered, this is a temporary work tree; PNEUMONIA_REGISTER=true registers one"
    return f"{MODEL_NAME}: {outcome}. {notice}".strip()


def judge(version: ModelVersion, champion: ModelVersion | None, lineage: Sequence[str], gates: Gates) -> list[Check]:
    """Check all that a version has to meet before it replaces the champion.

    Args:
        version: to become champion.
        champion: the present one, None if there is none.
        lineage: versions that were champion, see `Trail.lineage`.
        gates: what a champion has to reach.

    Raises:
        InputError: the predictions of a version cannot be read.
    """
    challenger = find_evidence(version, "the challenger")
    if champion is None or champion.version == version.version:
        return check_all(challenger, None, [], gates)
    earlier = [
        find_evidence(one, f"version {one.version}")
        for one in list_versions()
        if str(one.version) in lineage and one.version not in (version.version, champion.version)
    ]
    return check_all(challenger, find_evidence(champion, "the champion"), earlier, gates)


def consider(version: ModelVersion, gates: Gates) -> tuple[str, list[Check]]:
    """Decide whether a version becomes champion, and promote it if so; on the same evidence, decide only once.

    Returns:
        The outcome in a sentence, and the checks.

    Raises:
        PromotionRefusedError: another version became champion in the meantime.
        InputError: the predictions of a version cannot be read.
    """
    connect()
    sweep_locks(find_promoter())
    champion, trail = find_alias("champion"), read_trail()
    if champion and champion.version == version.version:
        return f"everything is up to date, version {version.version} is the champion", read_checks(version)
    vetoes, allowed = trail.find_vetoes(str(version.version)), may_promote()
    key = _digest_evidence(version, champion, trail.lineage, gates, vetoes, allowed)
    outcome = f"version {version.version} stays challenger"
    if champion:
        outcome += f", champion is version {champion.version}"
    if version.tags.get("checked") == key:
        return f"everything is up to date, {outcome}", read_checks(version)
    checks = judge(version, champion, trail.lineage, gates) + [Check(veto, "yes", "no", False) for veto in vetoes]
    if all(check.passed for check in checks):
        if allowed:
            keep_checks(version, checks, key="")  # a champion has its checks, even if this is killed once it is one
            _promote_once(version, champion, checks)
            outcome = f"version {version.version} is the new champion"
        elif os.environ.get("PNEUMONIA_PROMOTE"):
            outcome += "; it passed all gates, but PNEUMONIA_PROMOTE is false"
        else:
            outcome += "; it passed all gates, but an experiment promotes only if PNEUMONIA_PROMOTE is true"
    keep_checks(version, checks, key)
    return outcome, checks


def _digest_evidence(
    version: ModelVersion, champion: ModelVersion | None, lineage: list[str], gates: Gates, vetoes: list[str],
    allowed: bool,
) -> str:  # fmt: skip
    number = champion and str(champion.version)
    evidence = [number, lineage, version.tags["package_sha256"], gates.model_dump(), vetoes, allowed]
    return sha256_bytes(json.dumps(evidence).encode())


def may_promote() -> bool:
    """Tell whether this run may make a version champion: PNEUMONIA_PROMOTE, by default true but in an experiment.

    `dvc exp run` names the experiment for its stages. One experiment of many is chosen by what it reached, and the test
    images would be the judge of that choice.

    Raises:
        InputError: it is neither true nor false.
    """
    return _read_switch("PNEUMONIA_PROMOTE", default="DVC_EXP_NAME" not in os.environ)


def may_register() -> bool:
    """Tell whether this run may register a version: PNEUMONIA_REGISTER, by default true but in a temporary work tree.

    DVC runs queued experiments and those of `--temp` in such a tree: to compare, not to deploy.

    Raises:
        InputError: it is neither true nor false.
    """
    return _read_switch("PNEUMONIA_REGISTER", default=project_home() == Path.cwd())


def _read_switch(name: str, *, default: bool) -> bool:
    value = os.environ.get(name) or str(default).lower()  # empty as GitHub leaves an unset variable
    if value not in ("true", "false"):
        raise InputError(f"{name} is {value!r}.", expected="true or false", remedy="set it to one, or unset it")
    return value == "true"


def promote_judged(
    version: ModelVersion, champion: ModelVersion | None, checks: list[Check], reason: str, forced: bool = False,
    by_hand: bool = True,
) -> None:  # fmt: skip
    """Promote a version in place of the champion it was judged against, with the checks as evidence; see `promote`."""
    evidence = {check.what: [check.value, check.bound, check.passed] for check in checks}
    expected = str(champion.version) if champion else None
    promote(str(version.version), expected, reason, evidence, find_promoter(), forced, by_hand)


def _promote_once(version: ModelVersion, champion: ModelVersion | None, checks: list[Check]) -> None:
    """Promote a version, unless a run beside this one, of the same package, has just done so."""
    try:
        promote_judged(version, champion, checks, "passed all gates", by_hand=False)
    except PromotionRefusedError:
        present = find_alias("champion")
        if present is None or present.version != version.version:
            raise


def keep_checks(version: ModelVersion, checks: list[Check], key: str) -> None:
    """Store the checks of a version with it, and a digest of the evidence they were made on."""
    client = mlflow.MlflowClient()
    client.set_model_version_tag(MODEL_NAME, version.version, "checks", json.dumps([asdict(check) for check in checks]))
    client.set_model_version_tag(MODEL_NAME, version.version, "checked", key)


def read_checks(version: ModelVersion) -> list[Check]:
    """Return the checks stored with a version, none if it was never judged."""
    return read_json(version.tags.get("checks", "[]"), "checks", f"version {version.version}", list[Check])
