"""List, show, promote, roll back and verify registered versions."""

import argparse
from collections.abc import Callable
from typing import Any

import pandas as pd

from pneumonia.core.errors import InputError
from pneumonia.core.params_file import load_params
from pneumonia.registry.audit import Record, describe_freeze, find_promoter, read_audit, read_trail
from pneumonia.registry.checks import tabulate
from pneumonia.registry.gate import judge, promote_judged, read_checks
from pneumonia.registry.promotion import resume, rollback
from pneumonia.registry.verify import ensure_unchanged
from pneumonia.registry.versions import ALIASES, MODEL_NAME, find_alias, get_version, list_versions
from pneumonia.tracking.connection import connect
from pneumonia.tracking.spool import send_spooled

LISTED = ("recipe", "data_source", "split", "test_roc_auc", "test_sensitivity", "test_specificity", "test_threshold")
HIDDEN = ("checks", "checked", "digests")  # tags for machines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and their arguments."""
    actions = parser.add_subparsers(required=True)
    listed = {"list": list_registry, "show": show, "promote": promote_version, "rollback": roll_back,
              "resume": lift_freeze, "verify": verify, "sync": sync}  # fmt: skip
    added = {name: actions.add_parser(name, help=action.__doc__) for name, action in listed.items()}
    for name, action in listed.items():
        added[name].set_defaults(action=action)
    for name in ("show", "promote", "verify"):
        some = None if name == "promote" else "?"
        added[name].add_argument("version", nargs=some, default="champion", help="number, champion or challenger")
    added["promote"].add_argument("--force", action="store_true", help="overrule checks that failed")
    added["promote"].add_argument("--reason", default="", help="why; kept for good")
    for name in ("rollback", "resume"):
        added[name].add_argument("--reason", required=True, help="why; kept for good")


def run(action: Callable[..., None], **options: Any) -> None:
    """Run one action."""
    action(**options)


def list_registry() -> None:
    """Print all versions, the latest first."""
    aliases = {alias: found.version for alias in ALIASES if (found := find_alias(alias))}
    rows = [
        {"version": version.version, "alias": " ".join(a for a, number in aliases.items() if number == version.version)}
        | {name.removeprefix("test_"): version.tags.get(name, "") for name in LISTED}
        for version in list_versions()
    ]
    if rows:
        print(pd.DataFrame(rows).to_string(index=False))
    else:
        print(f"{MODEL_NAME} has no version. Run the pipeline: make repro")
    _print_freeze()


def show(version: str) -> None:
    """Print the tags of a version, its checks, and who moved it when and why."""
    found = get_version(version)
    tags = {name: value for name, value in sorted(found.tags.items()) if name not in HIDDEN}
    print(f"{MODEL_NAME}, version {found.version}. {found.description or ''}".strip() + "\n")
    print(pd.Series(tags).to_string())
    if checks := read_checks(found):
        print(f"\nGates:\n{tabulate(checks)}")
    for move in read_audit():
        if str(found.version) in (move["version"], move["former"]):
            print(f"\n{_describe(move)}")
    _print_freeze()


def _print_freeze() -> None:
    if frozen := describe_freeze():
        print(f"\n{frozen}")


def _describe(move: Record) -> str:
    overruled = ", ".join(what for what, found in move["evidence"].items() if found[-1] is False)
    forced = f" by force, overruling: {overruled}," if move["forced"] else ""
    undone = "" if move["took_place"] else " It did not take place."
    moved = "" if move["action"] == "resume" else f" from {move['former'] or 'none'}"
    reason = f": {move['reason'].strip().rstrip('.')}" if move["reason"].strip() else ""
    return (
        f"{move['at']} {move['action']}{forced} {'to' if moved else 'with'} version {move['version']}{moved}, "
        f"by {move['by']}{reason}.{undone}"
    )


def promote_version(version: str, reason: str, force: bool) -> None:
    """Make a version champion if it passes all gates; with --force and a reason, even if it does not."""
    found, champion = get_version(version), find_alias("champion")
    checks = judge(found, champion, read_trail().lineage, load_params().register_.gates)
    print(tabulate(checks))
    if (failed := [check.what for check in checks if not check.passed]) and not force:
        raise InputError(
            f"Version {found.version} of {MODEL_NAME} did not pass: {'; '.join(failed)}.",
            expected="all gates passed",
            remedy="keep the champion, or overrule the gates: "
            f'python -m pneumonia registry promote {found.version} --force --reason "..."',
        )
    promote_judged(found, champion, checks, reason, forced=force and bool(failed))
    print(f"Version {found.version} is the champion{' by force' if force and failed else ''}.")


def roll_back(reason: str) -> None:
    """Restore the previous champion."""
    record = rollback(reason, find_promoter())
    print(f"Version {record['version']} is the champion again, in place of version {record['former']}.")
    _print_freeze()


def lift_freeze(reason: str) -> None:
    """Let versions that pass the gate become champion again after a rollback."""
    resume(reason, find_promoter())
    print("Versions that pass the gate become champion again.")


def verify(version: str) -> None:
    """Compare the files of a version with those that were registered."""
    ensure_unchanged(found := get_version(version))
    print(f"Version {found.version} is what was registered.")


def sync() -> None:
    """Send what earlier runs could not send to the store."""
    connect()
    print(f"{send_spooled()} run(s) sent.")
