"""Prepare the SQLite store: made once, whole, of the schema that MLflow expects, and free."""

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from functools import cache
from itertools import count
from pathlib import Path

import mlflow
from filelock import FileLock

from pneumonia.core.errors import InputError
from pneumonia.core.files import project_home, replacing
from pneumonia.tracking.address import is_own, to_uri

WAIT = 30.0  # seconds for which a command waits for another program that holds the store
_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")


def prepare(file: Path, make: Callable[[Path], None] | None) -> bool:
    """Make sure that a store can be used, and return False where there is none yet.

    Args:
        file: of the store.
        make: makes the tables of a new store; None to create nothing.

    Raises:
        UnreachableError: another program holds it for more than WAIT seconds.
        InputError: it is damaged, of a newer MLflow, or may not be read, or there is no project here.
    """
    _check_place(file)
    if is_own(file) and make:
        try:
            file.parent.mkdir(exist_ok=True)
            if not _is_whole(file):
                with FileLock(file.with_name(".lock")):  # of several commands, one makes the store
                    if not _is_whole(file):
                        _renew(file, make)
        except OSError as error:
            raise InputError(
                f"The store {file} cannot be made: {error.strerror}.",
                expected="a folder that this account may write to, on a disk with free space",
                remedy=f"correct the owner and mode of {file.parent}, or how it is mounted",
            ) from error
    elif not file.exists() or not file.stat().st_size:
        return False
    _upgrade(file)
    return True


def _check_place(file: Path) -> None:
    if not is_own(file) and not file.parent.is_dir():
        raise InputError(
            f"MLFLOW_TRACKING_URI names {file}, but there is no folder {file.parent}.",
            expected="a file in a folder that exists, sqlite:///mlruns/mlflow.db for instance, or a server",
            remedy="correct or unset MLFLOW_TRACKING_URI",
        )
    if is_own(file) and not file.exists() and not (project_home() / "dvc.yaml").exists():
        raise InputError(
            f"{project_home()} is not the folder of a project.",
            expected="the folder that holds dvc.yaml, params.yaml and mlruns",
            remedy="change to that folder (cd), or let MLFLOW_TRACKING_URI name a store",
        )


def _is_whole(file: Path) -> bool:
    try:
        return file.exists() and bool(_read(file, "SELECT count(*) FROM sqlite_master")[0])
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorname not in _DAMAGED:
            raise
        return False


def _renew(file: Path, make: Callable[[Path], None]) -> None:
    """Make a store and put it into place whole; keep what was there before, unless it is empty."""
    with replacing(file) as beside:
        make(beside)
        if file.exists() and file.stat().st_size:
            kept = next(path for n in count() if not (path := file.with_name(f"{file.name}.damaged{n or ''}")).exists())
            for end in ("-journal", "-wal", "-shm"):  # what SQLite may need to recover it
                if (part := Path(f"{file}{end}")).exists():
                    part.rename(f"{kept}{end}")
            file.rename(kept)
            print(
                f"{file} is damaged. It is kept as {kept.name}, with runs, versions and audit trail; a new store takes "
                f"its place, and `dvc repro` registers the model there. To get the old one back, restore a backup.",
                file=sys.stderr, flush=True,
            )  # fmt: skip


def _read(file: Path, query: str) -> list[str]:
    """Return the first row of a query, waiting while another program holds the store."""
    for timeout in (2.0, WAIT):
        try:
            with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True, timeout=timeout)) as store:
                return list(store.execute(query).fetchone() or [])
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")) or timeout == WAIT:
                raise
            print(f"{file} is held by another program; waiting {WAIT:.0f} seconds.", file=sys.stderr, flush=True)
    raise AssertionError


@cache
def _find_revisions() -> list[str]:
    from alembic.script import ScriptDirectory  # slow to import

    scripts = ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
    return [script.revision for script in scripts.walk_revisions()]  # the latest first


def _upgrade(file: Path) -> None:
    """Upgrade the schema of the project's own store, after a backup; refuse any other that does not fit."""
    if not _read(file, "SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'"):
        return
    found, (latest, *older) = "".join(_read(file, "SELECT version_num FROM alembic_version")), _find_revisions()
    if found == latest:
        return
    command = ["mlflow", "db", "upgrade", to_uri(file)]
    if found not in older or not is_own(file):
        newer = found not in older
        raise InputError(
            f"{file} is of {'a newer' if newer else 'an older'} MLflow than {mlflow.__version__}: schema {found}.",
            expected=f"schema {latest}",
            remedy="install the MLflow that wrote it: git pull && make setup" if newer
            else f"copy the file, then: {' '.join(command)}",
        )  # fmt: skip
    with FileLock(file.with_name(".lock")):
        if _read(file, "SELECT version_num FROM alembic_version") == [latest]:
            return
        backup = file.with_name(f"{file.name}.{found}")
        with closing(sqlite3.connect(file)) as store, closing(sqlite3.connect(backup)) as copy:
            store.backup(copy)
        print(f"Upgrading {file} to MLflow {mlflow.__version__}; {backup.name} is a copy of it.", file=sys.stderr)
        done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
        if done.returncode:
            shutil.copyfile(backup, file)
            raise InputError(
                f"{file} cannot be upgraded to the schema of MLflow {mlflow.__version__}; it is as it was.",
                expected=f"schema {found}, unchanged since an earlier MLflow wrote it",
                remedy=f"{' '.join(command)} says why; or move the file away, and `dvc repro` makes a new store",
            )
