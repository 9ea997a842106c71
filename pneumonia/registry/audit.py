"""The audit trail: who made which version champion, when and why."""

import getpass
import json
import os
import re
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import mlflow
from typing_extensions import TypedDict

from pneumonia.core.errors import InputError
from pneumonia.registry.versions import MODEL_NAME, TRAIL, find_model, read_json
from pneumonia.tracking.connection import has_store
from pneumonia.tracking.failures import reaching

LIFT = 'python -m pneumonia registry resume --reason "...", or registry promote VERSION --reason "..."'
LIMIT = 5000  # characters that MLflow's tables hold in a tag; MLflow itself allows 100,000, SQLite any number
Record = dict[str, Any]  # its fields are listed at `read_audit`


class Stored(TypedDict):
    """What every record holds; anything else in its tag was written by somebody else."""

    action: str
    version: Any
    former: Any
    by: str
    at: str
    reason: str
    forced: bool
    evidence: dict[str, Any]


def find_promoter() -> str:
    """Return who promotes: PNEUMONIA_PROMOTER, else git's user.name, else the name of the account.

    The last identifies nobody, but a retraining in a container without a git name has to finish.

    Raises:
        InputError: none of them is set.
    """
    name = os.environ.get("PNEUMONIA_PROMOTER", "").strip()
    with suppress(FileNotFoundError):  # git is not installed
        git = ["git", "config", "user.name"]
        name = name or subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    try:
        return name or getpass.getuser()
    except (KeyError, OSError):
        raise InputError(
            "The promoter has no name.",
            expected="PNEUMONIA_PROMOTER, git's user.name or an account with a name",
            remedy='git config user.name "..."',
        ) from None


@dataclass(frozen=True)
class Trail:
    """All records, and the champions that they and the alias add up to.

    Attributes:
        records: by number, the oldest first; their fields are listed at `read_audit`.
        champions: as a stack, the present one on top, None where there was none. A promotion pushes a version, a
            rollback pops one; a version that the alias was moved to by hand is pushed too.
    """

    records: dict[int, Record]
    champions: list[str | None]

    @property
    def champion(self) -> str | None:
        """Return the number of the present champion."""
        return self.champions[-1]

    @property
    def lineage(self) -> list[str]:
        """Return the champions that nobody rolled back, the oldest first."""
        return list(dict.fromkeys(version for version in self.champions if version))

    @property
    def last(self) -> Record | None:
        """Return the last record that took place."""
        return next((record for record in reversed(self.records.values()) if record["took_place"]), None)

    @property
    def freeze(self) -> Record | None:
        """Return the rollback since which no version is promoted by itself, None if promotion is not frozen.

        A rollback says that something is wrong which no gate saw, so a person decides what comes next: the freeze ends
        with the next promotion by hand, or with a resume.
        """
        return self.last if self.last and self.last["action"] == "rollback" else None

    def find_vetoes(self, version: str) -> list[str]:
        """Return why only a person may promote a version: no gate sees what a rollback was made for."""
        moves = [
            one for one in self.records.values() if one["took_place"] and version in (one["version"], one["former"])
        ]
        undone = bool(moves) and moves[-1]["action"] == "rollback" and moves[-1]["former"] == version
        vetoes = {
            "promotion frozen by a rollback": self.freeze is not None,
            "rolled back since it was champion": undone,
        }
        return [veto for veto, applies in vetoes.items() if applies]


def read_audit() -> list[Record]:
    """Return all promotions and rollbacks on record, the oldest first.

    Fields: action (promote, rollback or resume), version, former (the champion until then, or None), by, at (ISO 8601,
    UTC), reason, forced, evidence, and took_place. The last is derived: a process killed between record and alias
    leaves the former champion in place, which the next record, or else the alias, shows. An alias put back by hand
    looks the same, and is the same for the champion. A resume moves nothing, and takes place when it is written.
    """
    return list(read_trail().records.values())


@reaching("reading the registry")
def read_trail() -> Trail:
    """Return the audit trail as the registry has it now."""
    model = find_model(MODEL_NAME) if has_store() else None
    tags, aliases = (model.tags, model.aliases) if model else ({}, {})
    kept = {
        int(found[1]): dict(read_json(tag, key, MODEL_NAME, Stored))
        for key, tag in tags.items()
        if (found := re.fullmatch(rf"{re.escape(TRAIL)}(\d+)", key))  # others are notes of somebody's
    }
    records: dict[int, Record] = dict(sorted(kept.items()))
    champion = str(aliases["champion"]) if "champion" in aliases else None
    followed = [*[record["former"] for record in records.values()][1:], champion]
    stack: list[str | None] = [None]
    for record, then in zip(records.values(), followed, strict=False):
        record["took_place"] = record["action"] == "resume" or then != record["former"]
        if then != record["former"]:
            stack += [record["former"]] if stack[-1] != record["former"] else []
            stack = stack[:-1] if record["action"] == "rollback" else [*stack, record["version"]]
    return Trail(records, stack if stack[-1] == champion else [*stack, champion])


def describe_freeze() -> str:
    """Return why promotion is frozen and how to lift that, empty if it is not frozen."""
    if not (rollback := read_trail().freeze):
        return ""
    return (
        f"Automatic promotion is frozen: {rollback['by']} rolled back version {rollback['former']} at "
        f"{rollback['at']}: {rollback['reason'].strip().rstrip('.')}. To lift this: {LIFT}"
    )


def write_record(trail: Trail, record: Record) -> None:
    """Append a record to the trail."""
    key = f"{TRAIL}{max(trail.records, default=0) + 1:04}"
    mlflow.MlflowClient().set_registered_model_tag(MODEL_NAME, key, json.dumps(record))


def make_record(action: str, version: str | None, former: str | None, by: str, reason: str) -> Record:
    """Return a record of this moment, not forced and without evidence; its fields are listed at `read_audit`."""
    record = {"action": action, "version": version, "former": former, "by": by, "at": stamp()}
    return record | {"reason": reason, "forced": False, "evidence": {}}


def check_record(record: Record, frozen: bool) -> None:
    """Refuse a record without a required reason, or longer than a tag may be.

    Args:
        record: the record.
        frozen: whether promotion is frozen, so that a promotion lifts this.

    Raises:
        InputError: as said.
    """
    if not record["reason"].strip() and (record["forced"] or frozen or record["action"] != "promote"):
        raise InputError(
            "A forced promotion, a rollback, or what lifts a freeze has no reason.",
            expected="a reason that others understand a year later",
            remedy='--reason "..."',
        )
    if (length := len(json.dumps(record))) > LIMIT:
        raise InputError(
            f"The audit record has {length} characters.",
            expected=f"at most {LIMIT}, the size of a tag in MLflow",
            remedy="name long evidence by its run or SHA-256",
        )


def stamp() -> str:
    """Return the time as a record holds it: ISO 8601, UTC, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")
