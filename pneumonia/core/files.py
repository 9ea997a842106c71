"""Write files whole or not at all, name them by their content, and let one process at a time write."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pneumonia.core.errors import InputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; only when the block succeeds does it take the place of `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The end of the name stays: writers such as Keras and matplotlib choose the format by it.
    beside = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_json(content: Any, path: Path) -> None:
    """Write JSON, whole or not at all."""
    with replacing(path) as beside:
        beside.write_text(json.dumps(content, indent=2) + "\n")


@contextmanager
def locked(path: Path, doing: str) -> Iterator[None]:
    """Lock a file or folder against other processes; the lock of a process that is gone is free.

    Args:
        path: need not exist; the lock is a file beside it, `<path without its suffix>.lock`, and stays there.
        doing: what the other process does, starting with a verb in -ing; printed when this one has to wait.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"Another process is {doing}; waiting for it.", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def remove_unless_locked(folder: Path) -> bool:
    """Remove a folder that no process has `locked`, and return whether it was removed."""
    lock = FileLock(folder.with_suffix(".lock"))
    try:
        with lock.acquire(timeout=0):
            shutil.rmtree(folder, ignore_errors=True)
            return True
    except Timeout:
        return False


def sha256_bytes(content: bytes) -> str:
    """Return the SHA-256 of `content` as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_digests(files: Iterable[Path], path: Path) -> None:
    """Write the SHA-256 of each file by its path as given, as JSON."""
    write_json({file.as_posix(): sha256_file(file) for file in files}, path)


def ensure_digests(files: Iterable[Path], path: Path) -> None:
    """Refuse files that are not those whose SHA-256 `write_digests` wrote.

    Raises:
        InputError: a file is another, is missing or is not listed; or the list cannot be read.
    """
    try:
        expected: Any = json.loads(path.read_bytes())
        changed = [file.as_posix() for file in files if expected.get(file.as_posix()) != sha256_file(file)]
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            f"It is unknown which files were evaluated: {error}.",
            expected=f"the files of the last evaluation, and their SHA-256 in {path}",
            remedy="dvc repro --force evaluate",
        ) from error
    if changed:
        raise bad_digest(changed[0], str(path))


def bad_digest(what: str, path: str) -> InputError:
    """Return the error of a file that was replaced after the evaluation that wrote `path`."""
    return InputError(
        f"{what} is not the file that was evaluated.",
        expected=f"the SHA-256 in {path}",
        remedy="rm -r .dvc/cache && dvc pull, from a remote with verify = true; or dvc repro --force",
    )


def project_home() -> Path:
    """Return the folder that holds `mlruns/` and `.cache/`.

    An experiment that DVC runs from its queue lives in a throw-away copy below .dvc/tmp/exps; what it sends to MLflow
    and what it computes once belong to the project it was queued in.
    """
    here = Path.cwd()
    return next((p.parent for p in here.parents if p.name == ".dvc" and "exps" in here.relative_to(p).parts), here)
