"""Restore a dvc.lock that was cut short while DVC wrote it: python -m pneumonia.experiments.dvc_lock."""

import subprocess
from pathlib import Path

import yaml
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from voluptuous import Invalid

LOCK = Path("dvc.lock")


def mend_lock() -> None:
    """Replace a dvc.lock that DVC cannot read with the last committed one, or remove it where none is committed.

    Nothing that was computed is lost: DVC restores from its run cache what ran since.
    """
    if not LOCK.exists() or _is_readable():
        return
    committed = subprocess.run(["git", "show", "HEAD:./dvc.lock"], capture_output=True, check=False)
    if committed.returncode:
        LOCK.unlink()
        print("dvc.lock was cut short and is removed; DVC writes it anew from its run cache.", flush=True)
    else:
        LOCK.write_bytes(committed.stdout)
        print("dvc.lock was cut short and is restored from the last commit.", flush=True)


def _is_readable() -> bool:
    try:
        COMPILED_LOCKFILE_SCHEMA(yaml.safe_load(LOCK.read_bytes()))
    except (yaml.YAMLError, UnicodeDecodeError, Invalid):
        return False
    return True


if __name__ == "__main__":
    mend_lock()
