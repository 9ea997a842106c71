"""Mend what a kill or a full disk cut short while DVC wrote it: python -m pneumonia.experiments.dvc_lock."""

import json
import subprocess
from collections.abc import Callable
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import yaml
from dvc.lock import LockError, make_lock
from dvc.rwlock import SCHEMA
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from voluptuous import Invalid

from pneumonia.core.errors import InputError
from pneumonia.core.files import replacing
from pneumonia.core.stage import is_running

LOCK = Path("dvc.lock")
USED = Path(".dvc/tmp/rwlock")  # which process uses which file
Check = Callable[[bytes], Any]


def mend_lock() -> None:
    """Replace a dvc.lock that DVC cannot read with the last committed one, or remove it where none is committed.

    Nothing that was computed is lost: DVC restores from its run cache what ran since. Its list of the files that are in
    use is removed if it cannot be read, or if all that it names were killed. While a DVC holds its lock, nothing is
    touched: it may be writing them.

    Raises:
        InputError: the disk is still full.
    """
    if _is_whole(LOCK, _check_lock) and _is_whole(USED, _check_used):
        return
    try:
        USED.parent.mkdir(parents=True, exist_ok=True)
        with suppress(LockError), make_lock(str(USED.with_name("lock")), tmp_dir=str(USED.parent)):
            if not _is_whole(USED, _check_used):
                USED.unlink()
                print(f"{USED} was cut short, or is of a process that was killed, and is removed.", flush=True)
            if not _is_whole(LOCK, _check_lock):
                _restore()
    except OSError as error:
        raise InputError(
            f"What DVC was writing was cut short, and cannot be mended: {error.strerror}.",
            expected="a folder that can be written to, and free space",
            remedy="free some space (make clean-cache) and run the same command again",
        ) from error


def _restore() -> None:
    committed = subprocess.run(["git", "show", "HEAD:./dvc.lock"], capture_output=True, check=False)
    if committed.returncode:
        LOCK.unlink()
        print("dvc.lock was cut short and is removed; DVC writes it anew from its run cache.", flush=True)
    else:
        with replacing(LOCK) as beside:
            beside.write_bytes(committed.stdout)
        print("dvc.lock was cut short and is restored from the last commit.", flush=True)


def _check_lock(content: bytes) -> None:
    COMPILED_LOCKFILE_SCHEMA(yaml.safe_load(content))
    if not content.endswith(b"\n"):  # DVC would look for an output by half a digest, and run its stage again
        raise ValueError


def _check_used(content: bytes) -> None:
    used: Any = SCHEMA(json.loads(content))
    users = [*used["write"].values(), *chain(*used["read"].values())]
    # DVC takes a killed process for a running one until somebody reaps it, which in some containers nobody does.
    if users and not any(is_running(user["pid"]) for user in users):
        raise ValueError


def _is_whole(path: Path, check: Check) -> bool:
    try:
        check(path.read_bytes())
    except FileNotFoundError:
        return True
    except (yaml.YAMLError, ValueError, Invalid):
        return False
    return True


if __name__ == "__main__":
    try:
        mend_lock()
    except InputError as error:
        raise SystemExit(str(error)) from None
