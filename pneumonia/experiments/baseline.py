"""Reproduce another commit as the baseline of a comparison."""

import os
import shutil
import subprocess
import tempfile
from functools import partial
from pathlib import Path

from pneumonia.core.errors import InputError
from pneumonia.experiments.judgement import METRICS, PREDICTIONS, SPLIT
from pneumonia.registry.evaluated import ensure_locked


def reproduce(revision: str) -> str:
    """Run the pipeline of a commit up to the report, in a temporary clone that shares this project's DVC cache.

    DVC restores what it has run before. Nothing is registered.

    Returns:
        A commit on no branch whose dvc.lock lists the outputs.

    Raises:
        ReplacedError: its evaluation is not what its pipeline made.
        InputError: the commit does not exist, or its pipeline fails.
    """
    try:
        commit = _find_commit(revision)
    except subprocess.CalledProcessError:
        raise InputError(
            f"There is no commit {revision!r}.", expected="a commit in this clone", remedy="git fetch --unshallow"
        ) from None
    with tempfile.TemporaryDirectory() as folder:
        _clone(commit, Path(folder))
        run = partial(subprocess.run, cwd=folder, check=True, env=_without_tracking_server())
        try:
            if _has_remote():  # without keys for it, as in a pull request, what the cache holds has to do
                run(["dvc", "pull", "-q", "--allow-missing"], check=False)
            run(["dvc", "checkout", "-q", "--allow-missing"])
            run(["dvc", "repro", "report"])
        except subprocess.CalledProcessError:
            raise InputError(
                f"The pipeline of {revision} failed.",
                expected="a commit that can be reproduced here",
                remedy=f"git switch --detach {revision} && dvc repro report",
            ) from None
        ensure_locked((METRICS, SPLIT, PREDICTIONS), Path(folder))
        run(["git", "add", "dvc.lock"])
        identity = ("-c", "user.name=retraining", "-c", "user.email=retraining@localhost")
        run(["git", *identity, "commit", "-q", "--allow-empty", "--no-verify", "-m", f"Reproduce {revision}"])
        subprocess.run(["git", "fetch", "-q", folder, "HEAD"], check=True)
    return _find_commit("FETCH_HEAD")


def _clone(commit: str, folder: Path) -> None:
    subprocess.run(["git", "clone", "-q", "--shared", "--no-checkout", ".", str(folder)], check=True)
    subprocess.run(["git", "checkout", "-q", "--detach", commit], cwd=folder, check=True)
    if (settings := Path(".dvc/config.local")).exists():  # may name a remote and hold its credentials
        shutil.copy(settings, folder / settings)
    cache = str(Path(".dvc/cache").resolve())
    subprocess.run(["dvc", "cache", "dir", "-q", "--local", cache], cwd=folder, check=True)


def _find_commit(revision: str) -> str:
    command = ["git", "rev-parse", "--verify", f"{revision}^{{commit}}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _has_remote() -> bool:
    return subprocess.run(["dvc", "remote", "default"], capture_output=True, check=False).returncode == 0


def _without_tracking_server() -> dict[str, str]:
    # A baseline is reproduced for comparison only: its runs stay in the clone's own store and vanish with it.
    return {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_TRACKING", "DVC_EXP"))}
