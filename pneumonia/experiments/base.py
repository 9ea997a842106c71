"""Reproduce the pipeline of another commit to compare with."""

import os
import shutil
import subprocess
import tempfile
from functools import partial
from pathlib import Path

from pneumonia.core.errors import InputError


def reproduce(revision: str) -> str:
    """Run the pipeline of a commit in a clone of its own, up to the report.

    The clone shares this project's DVC cache, so what was ever run here is not run again. It is deleted afterwards.

    Returns:
        A commit that no branch holds, whose dvc.lock names the outputs.

    Raises:
        InputError: there is no such commit, or its pipeline fails.
    """
    try:
        commit = _find_commit(revision)
    except subprocess.CalledProcessError:
        raise InputError(
            f"There is no commit {revision!r}.", expected="one that this clone holds", remedy="git fetch --unshallow"
        ) from None
    with tempfile.TemporaryDirectory() as folder:
        run = partial(subprocess.run, cwd=folder, check=True, env=_forget_stores())
        subprocess.run(["git", "clone", "-q", "--shared", "--no-checkout", ".", folder], check=True)
        run(["git", "checkout", "-q", "--detach", commit])
        if (settings := Path(".dvc/config.local")).exists():  # may name a remote and hold its credentials
            shutil.copy(settings, Path(folder, settings))
        run(["dvc", "cache", "dir", "-q", "--local", str(Path(".dvc/cache").resolve())])
        try:
            run(["dvc", "pull" if _has_remote() else "checkout", "-q", "--allow-missing"])
            run(["dvc", "repro", "report"])
        except subprocess.CalledProcessError:
            raise InputError(
                f"The pipeline of {revision} does not come to its end.",
                expected="a commit that can be reproduced here",
                remedy=f"git switch --detach {revision} && dvc repro report",
            ) from None
        run(["git", "add", "dvc.lock"])
        identity = ("-c", "user.name=retraining", "-c", "user.email=retraining@localhost")
        run(["git", *identity, "commit", "-q", "--allow-empty", "--no-verify", "-m", f"Reproduce {revision}"])
        subprocess.run(["git", "fetch", "-q", folder, "HEAD"], check=True)
    return _find_commit("FETCH_HEAD")


def _find_commit(revision: str) -> str:
    command = ["git", "rev-parse", "--verify", f"{revision}^{{commit}}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _has_remote() -> bool:
    return subprocess.run(["dvc", "remote", "default"], capture_output=True, check=False).returncode == 0


def _forget_stores() -> dict[str, str]:
    """Return the environment without a tracking server: what is run again only to compare with is no new run."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_TRACKING", "DVC_EXP"))}
