"""What `python -m pneumonia registry` does: list, show, promote, roll back, verify, sync."""

import argparse
from collections.abc import Callable
from typing import Any

import pandas as pd

from pneumonia.core.errors import InputError
from pneumonia.core.params_file import load_params
from pneumonia.registry.gate import Check, judge, promote_judged, read_checks
from pneumonia.registry.promotion import MODEL_NAME, Record, find_alias, find_promoter, read_audit, rollback
from pneumonia.registry.versions import ensure_unchanged, get_version, list_versions
from pneumonia.tracking.runs import send_spooled

LISTED = ("recipe", "data_source", "split", "test_roc_auc", "test_sensitivity", "test_specificity", "test_threshold")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and their arguments."""
    actions = parser.add_subparsers(required=True)
    listed = {"list": list_registry, "show": show, "promote": promote_version, "rollback": roll_back,
              "verify": verify, "sync": sync}  # fmt: skip
    added = {name: actions.add_parser(name, help=action.__doc__) for name, action in listed.items()}
    for name, action in listed.items():
        added[name].set_defaults(action=action)
    for name in ("show", "promote", "verify"):
        some = None if name == "promote" else "?"
        added[name].add_argument("version", nargs=some, default="champion", help="number, champion or challenger")
    added["promote"].add_argument("--force", action="store_true", help="in spite of a gate that failed")
    added["promote"].add_argument("--reason", default="", help="why; kept for good")
    added["rollback"].add_argument("--reason", required=True, help="why; kept for good")


def run(action: Callable[..., None], **options: Any) -> None:
    """Run one action."""
    action(**options)


def list_registry() -> None:
    """Print all versions, the latest first."""
    aliases = {alias: found.version for alias in ("champion", "challenger") if (found := find_alias(alias))}
    rows = [
        {"version": version.version, "alias": " ".join(a for a, number in aliases.items() if number == version.version)}
        | {name.removeprefix("test_"): version.tags.get(name, "") for name in LISTED}
        for version in list_versions()
    ]
    print(
        pd.DataFrame(rows).to_string(index=False)
        if rows
        else f"{MODEL_NAME} has no version. Run the pipeline: make repro"
    )


def show(version: str) -> None:
    """Print what is known of a version, what it was asked for, and who moved it."""
    found = get_version(version)
    tags = {name: value for name, value in sorted(found.tags.items()) if name not in ("checks", "checked", "digests")}
    print(f"{MODEL_NAME}, version {found.version}. {found.description or ''}".strip() + "\n")
    print(pd.Series(tags).to_string())
    if checks := read_checks(found):
        print(f"\nGates:\n{_tabulate(checks)}")
    for move in read_audit():
        if str(found.version) in (move["version"], move["former"]):
            print(f"\n{_tell(move)}")


def _tell(move: Record) -> str:
    overruled = ", ".join(what for what, found in move["evidence"].items() if found[-1] is False)
    forced = f" by force, in spite of: {overruled}," if move["forced"] else ""
    undone = "" if move["took_place"] else " It did not take place."
    reason = f": {move['reason'].strip().rstrip('.')}" if move["reason"].strip() else ""
    return (
        f"{move['at']} {move['action']}{forced} to version {move['version']} from {move['former'] or 'none'}, "
        f"by {move['by']}{reason}.{undone}"
    )


def promote_version(version: str, reason: str, force: bool) -> None:
    """Make a version champion if it passes all gates, or with a reason in spite of them."""
    found, champion = get_version(version), find_alias("champion")
    checks = judge(found, champion, load_params().register_.gates)
    print(_tabulate(checks))
    if (failed := [check.what for check in checks if not check.passed]) and not force:
        raise InputError(
            f"Version {found.version} of {MODEL_NAME} did not pass: {'; '.join(failed)}.",
            expected="all gates passed",
            remedy=f'leave it, or: python -m pneumonia registry promote {found.version} --force --reason "..."',
        )
    promote_judged(found, champion, checks, reason, forced=force and bool(failed))
    print(f"Version {found.version} is the champion{' by force' if force and failed else ''}.")


def roll_back(reason: str) -> None:
    """Make the former champion champion again."""
    record = rollback(reason, find_promoter())
    print(f"Version {record['version']} is the champion again, version {record['former']} no longer.")


def verify(version: str) -> None:
    """Compare a stored version, byte by byte, with what was registered."""
    ensure_unchanged(found := get_version(version))
    print(f"Version {found.version} is what was registered.")


def sync() -> None:
    """Send what earlier runs could not send to the tracking server."""
    print(f"{send_spooled()} run(s) sent.")


def _tabulate(checks: list[Check]) -> str:
    return pd.DataFrame([vars(check) for check in checks]).to_string(index=False)
