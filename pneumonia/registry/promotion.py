"""Move the alias champion: one promotion at a time, on record, and back again."""

from collections.abc import Callable
from typing import Any

import mlflow

from pneumonia.core.errors import InputError
from pneumonia.registry.audit import LIFT, Record, Trail, check_record, make_record, read_trail, write_record
from pneumonia.registry.lock import JUDGE_AGAIN, PromotionRefusedError, hold_lock
from pneumonia.registry.versions import MODEL_NAME
from pneumonia.tracking.failures import reaching

PROMOTE = 'python -m pneumonia registry promote VERSION --reason "..."'


@reaching("promoting a version")
def promote(
    version: str, expected: str | None, reason: str, evidence: dict[str, Any], by: str, forced: bool = False,
    by_hand: bool = True,
) -> Record:  # fmt: skip
    """Make a version champion, unless the champion changed since the version was judged.

    Args:
        version: the new champion.
        expected: the champion that this version was judged against, None if there was none.
        reason: why; not empty when forced.
        evidence: what was measured and compared, as JSON takes it.
        by: who, see `find_promoter`.
        forced: whether a check was overruled.
        by_hand: whether a person decided this, so that a rollback does not stand against it.

    Raises:
        PromotionRefusedError: another promotion came first, or does not end, or a rollback stands against it.
        InputError: no reason, no such version, the champion itself, or more than a tag holds.
    """
    with hold_lock(by) as ensure_held:
        trail = read_trail()
        if (champion := trail.champion) != (expected and str(expected)):  # MLflow returns numbers from a local store
            last = trail.last
            who = f"by {last['by']} at {last['at']}" if last and last["version"] == champion else "by hand"
            raise PromotionRefusedError(
                f"Version {version} is not promoted, another promotion came first: version {champion} {who}.",
                expected=f"version {expected} as champion, as when it was judged" if expected else "no champion yet",
                remedy=JUDGE_AGAIN,
            )
        if not by_hand and (vetoes := trail.find_vetoes(str(version))):  # by a rollback since it was judged
            raise PromotionRefusedError(
                f"Version {version} is not promoted: {', '.join(vetoes)}.",
                expected="no rollback since it was judged",
                remedy=LIFT,
            )
        record = make_record("promote", str(version), champion, by, reason) | {"forced": forced, "evidence": evidence}
        return _move_champion(ensure_held, trail, record)


@reaching("rolling back the champion")
def rollback(reason: str, by: str) -> Record:
    """Restore the previous champion; a second rollback goes one further back.

    Args:
        reason: why; not empty.
        by: who, see `find_promoter`.

    Raises:
        PromotionRefusedError: a promotion under way does not end.
        InputError: no reason, or no previous champion that still exists.
    """
    with hold_lock(by) as ensure_held:
        trail = read_trail()
        *_, former, champion = [None, *trail.champions]
        if former is None:
            raise InputError(
                f"{MODEL_NAME} has no former champion.",
                expected="a champion before the present one on the audit trail",
                remedy=PROMOTE,
            )
        return _move_champion(ensure_held, trail, make_record("rollback", former, champion, by, reason))


@reaching("lifting the freeze")
def resume(reason: str, by: str) -> Record:
    """Let versions that pass the gate become champion again after a rollback; the champion stays.

    Args:
        reason: why; not empty.
        by: who, see `find_promoter`.

    Raises:
        PromotionRefusedError: a promotion under way does not end.
        InputError: no reason, or promotion is not frozen.
    """
    with hold_lock(by) as ensure_held:
        trail = read_trail()
        if not trail.freeze:
            raise InputError(
                "Promotion is not frozen.", expected="a rollback that nothing followed", remedy="do nothing"
            )
        check_record(record := make_record("resume", trail.champion, trail.champion, by, reason), frozen=True)
        ensure_held()
        write_record(trail, record)
        return record


def _move_champion(ensure_held: Callable[[], None], trail: Trail, record: Record) -> Record:
    """Write a record, then move the alias.

    The other way round, a process killed in between would leave a champion that nobody can account for.
    """
    client, version = mlflow.MlflowClient(), record["version"]
    check_record(record, frozen=trail.freeze is not None)
    if version == record["former"]:
        raise InputError(f"Version {version} is champion already.", expected="another version", remedy="do nothing")
    query = f"name = '{MODEL_NAME}' and version_number = {version}"
    if not (version.isdecimal() and client.search_model_versions(query)):
        raise InputError(
            f"{MODEL_NAME} has no version {version}.",
            expected="a registered version that was not deleted",
            remedy=PROMOTE,
        )
    ensure_held()
    write_record(trail, record)
    ensure_held()
    client.set_registered_model_alias(MODEL_NAME, "champion", version)
    return record
