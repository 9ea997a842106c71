"""Move the alias champion: one promotion at a time, with who and why on record, and back again."""

import getpass
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import mlflow
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException

from pneumonia.core.errors import InputError
from pneumonia.tracking.connection import connect, reaching

MODEL_NAME = "pneumonia-classifier"
LOCK = f"{MODEL_NAME}.promotion"  # a registered model that is there while somebody promotes
WAIT = 5.0  # seconds that a promotion waits for another, which takes a fraction of one
STALE = 300.0  # seconds after which whoever holds the lock counts as killed; clocks may differ by less
TRAIL = "audit."  # and a number: the tags that hold the records
LIMIT = 5000  # characters of a tag that MLflow's tables are made for: it checks for 100,000 itself, and SQLite for none
JUDGE_AGAIN = "judge it against the present champion: dvc repro"
OTHERWISE = 'python -m pneumonia registry promote VERSION --reason "..."'
Record = dict[str, Any]  # its fields are listed at `read_audit`


class PromotionRefusedError(InputError):
    """Somebody else was first, or is still at it."""


def find_promoter() -> str:
    """Return who promotes: PNEUMONIA_PROMOTER, else git's user.name, else the name of the account.

    The last is no signature, but a retraining in a container without a git name must come to its end.
    """
    name = os.environ.get("PNEUMONIA_PROMOTER", "").strip()
    with suppress(FileNotFoundError):  # git is not installed
        git = ["git", "config", "user.name"]
        name = name or subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    try:
        return name or getpass.getuser()
    except (KeyError, OSError):
        expected = "PNEUMONIA_PROMOTER, git's user.name or an account with a name"
        raise InputError("Who promotes has no name.", expected=expected, remedy='git config user.name "..."') from None


@reaching()
def find_alias(alias: str) -> ModelVersion | None:
    """Return the version with an alias, champion or challenger, None when there is none."""
    connect()
    if (model := _find_model(MODEL_NAME)) and alias in model.aliases:
        return mlflow.MlflowClient().get_model_version_by_alias(MODEL_NAME, alias)


def _find_model(name: str) -> RegisteredModel | None:
    # Asked this way, a store that cannot be reached is an error and not a store without that model.
    models = mlflow.MlflowClient().search_registered_models(f"name = '{name}'")
    return models[0] if models else None


@reaching()
def read_audit() -> list[Record]:
    """Return every promotion and rollback on record, the oldest first.

    Fields: action (promote or rollback), version, former (champion until then, or None), by, at (ISO 8601, UTC),
    reason, forced, evidence, and took_place, which is not kept but seen from what the next record, or in the end the
    alias, names as champion: still the former one where a process was killed between record and alias. Where somebody
    put the alias back by hand it looks the same, and is the same for the champion.
    """
    connect()
    return list(_read_trail()[0].values())


def _read_trail() -> tuple[dict[int, Record], list[str | None]]:
    """Return the records by number, and the champions as a stack with the present one on top.

    A promotion lays a version on it, a rollback takes one off; what the alias was moved to by hand lies there too.
    """
    model = _find_model(MODEL_NAME)
    tags, aliases = (model.tags, model.aliases) if model else ({}, {})
    kept = {int(key.removeprefix(TRAIL)): json.loads(tag) for key, tag in tags.items() if key.startswith(TRAIL)}
    trail: dict[int, Record] = dict(sorted(kept.items()))
    champion = str(aliases["champion"]) if "champion" in aliases else None
    followed = [*[record["former"] for record in trail.values()][1:], champion]
    stack: list[str | None] = [None]
    for record, then in zip(trail.values(), followed, strict=False):
        record["took_place"] = then != record["former"]
        if record["took_place"]:
            stack += [record["former"]] if stack[-1] != record["former"] else []
            stack = stack[:-1] if record["action"] == "rollback" else [*stack, record["version"]]
    return trail, stack if stack[-1] == champion else [*stack, champion]


@reaching("a promotion")
def promote(
    version: str, expected: str | None, reason: str, evidence: dict[str, Any], by: str, forced: bool = False
) -> Record:
    """Make a version champion, unless another one became champion since it was judged.

    Args:
        version: the new champion.
        expected: the version that was champion when this one was judged, None when there was none.
        reason: why; not empty when forced.
        evidence: what was measured and compared, as JSON takes it.
        by: who, as `find_promoter` says.
        forced: whether a check was overruled.

    Raises:
        PromotionRefusedError: another promotion came first, or does not end.
        InputError: no reason, no such version, the champion itself, or more than a tag holds.
    """
    with _lock(by) as ticket:
        trail, (*_, champion) = _read_trail()
        if champion != (None if expected is None else str(expected)):  # numbers in a store of one's own
            last = next((record for record in reversed(trail.values()) if record["took_place"]), None)
            who = f"by {last['by']} at {last['at']}" if last and last["version"] == champion else "by hand"
            raise PromotionRefusedError(
                f"Version {version} is not promoted, another promotion came first: version {champion} {who}.",
                expected=f"version {expected} as champion, as when it was judged" if expected else "no champion yet",
                remedy=JUDGE_AGAIN,
            )
        record = {"action": "promote", "version": str(version), "former": champion, "by": by, "at": _now()}
        return _move_champion(ticket, trail, record | {"reason": reason, "forced": forced, "evidence": evidence})


@reaching("a rollback")
def rollback(reason: str, by: str) -> Record:
    """Make the version champion again that was it before the present one.

    Done twice it goes further back instead of undoing itself: the way forward is a promotion. Errors are those of
    `promote`, and an InputError where there was no champion before, or where it was deleted.
    """
    with _lock(by) as ticket:
        trail, stack = _read_trail()
        *_, former, champion = [None, *stack]
        if former is None:
            expected = "a champion before the present one on the audit trail"
            raise InputError(f"{MODEL_NAME} has no former champion.", expected=expected, remedy=OTHERWISE)
        record = {"action": "rollback", "version": former, "former": champion, "by": by, "at": _now()}
        return _move_champion(ticket, trail, record | {"reason": reason, "forced": False, "evidence": {}})


def _move_champion(ticket: str, trail: dict[int, Record], record: Record) -> Record:
    """Write a record, then move the alias.

    The other way round, a process killed in between would leave a champion of whom nobody knows who made it and why.
    """
    client, version, tag = mlflow.MlflowClient(), record["version"], json.dumps(record)
    if not record["reason"].strip() and (record["forced"] or record["action"] == "rollback"):
        expected = "a reason that others understand a year later"
        raise InputError("A forced promotion or rollback has no reason.", expected=expected, remedy='--reason "..."')
    if version == record["former"]:
        raise InputError(f"Version {version} is champion already.", expected="another one", remedy="leave it at that")
    if len(tag) > LIMIT:
        what, remedy = f"The audit record has {len(tag)} characters.", "name long evidence by its run or SHA-256"
        raise InputError(what, expected=f"at most {LIMIT}, what MLflow keeps in a tag", remedy=remedy)
    number = f"name = '{MODEL_NAME}' and version_number = {version}"
    if not (version.isdecimal() and client.search_model_versions(number)):
        what, expected = f"{MODEL_NAME} has no version {version}.", "a registered version that was not deleted"
        raise InputError(what, expected=expected, remedy=OTHERWISE)
    _check_lock(ticket)
    client.set_registered_model_tag(MODEL_NAME, f"{TRAIL}{max(trail, default=0) + 1:04}", tag)
    _check_lock(ticket)
    client.set_registered_model_alias(MODEL_NAME, "champion", version)
    return record


@contextmanager
def _lock(by: str) -> Iterator[str]:
    """Hold a lock that every machine sees, and yield the ticket in it.

    MLflow has no compare-and-swap, but of many who create a registered model of one name only one succeeds.
    """
    connect()
    ticket = f"{by} on {socket.gethostname()} since {_now()}, {uuid4().hex[:8]}"
    deadline = time.monotonic() + WAIT
    try:
        while not _take_lock(ticket):
            if time.monotonic() > deadline:
                held = _find_model(LOCK)
                raise PromotionRefusedError(
                    f"Another promotion is under way: {held.description if held else 'not known any more'}.",
                    expected=f"its end within {WAIT:.0f} seconds",
                    remedy=f"run again; after {STALE / 60:.0f} minutes it counts as killed",
                )
            time.sleep(0.05)
        yield ticket
    finally:
        if (held := _find_model(LOCK)) and held.description == ticket:
            mlflow.MlflowClient().delete_registered_model(LOCK)


def _take_lock(ticket: str) -> bool:
    client = mlflow.MlflowClient()
    try:
        client.create_registered_model(LOCK, description=ticket)
        return True
    except MlflowException as error:
        # The second is what MLflow says when the lock goes away while it looks whose it is.
        if error.error_code not in ("RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST"):
            raise
    held = _find_model(LOCK)
    if held and time.time() - held.creation_timestamp / 1000 > STALE:  # pyright: ignore[reportOptionalOperand]
        # Of two who find a lock too old, the second could delete the new lock of the first. A name is taken only once.
        with suppress(MlflowException):
            client.rename_registered_model(LOCK, f"{LOCK}.broken-{held.creation_timestamp}")
            print(f"broke the lock of a promotion that was killed: {held.description}")
    # Its own, where the answer to a first attempt was lost and MLflow asked again.
    return held is not None and held.description == ticket


def _check_lock(ticket: str) -> None:
    """Refuse to go on for a process that was asleep for so long that others took it for killed."""
    held = _find_model(LOCK)
    if held is None or held.description != ticket:
        what, expected = "This promotion took too long, its lock was broken.", f"at most {STALE:.0f} seconds"
        raise PromotionRefusedError(what, expected=expected, remedy=JUDGE_AGAIN)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
