"""Identify the code that made something: commit and library versions."""

import subprocess
from collections.abc import Iterable
from importlib.metadata import distributions

LIBRARIES = ("dvc", "keras", "mlflow", "numpy", "pandas", "pillow", "scikit-learn", "scipy", "tensorflow")


def describe_code() -> dict[str, str]:
    """Return the commit, whether tracked files differ from it, and library versions, as MLflow tags.

    Outside git, and without the program git, `git_commit` is "none" and `git_dirty` is "unknown".
    """
    changes = _git("status", "--porcelain", "-uno")
    dirty = "unknown" if changes is None else str(bool(changes))
    versions = {f"version.{library}": version for library, version in find_versions(LIBRARIES).items()}
    return {"git_commit": find_commit(), "git_dirty": dirty} | versions


def find_versions(libraries: Iterable[str]) -> dict[str, str]:
    """Return the installed version of each library."""
    # TensorFlow is installed as tensorflow or tensorflow_cpu; packages spell their names in several ways.
    installed = {found.name.lower().replace("_", "-").removesuffix("-cpu"): found.version for found in distributions()}
    return {library: installed[library] for library in libraries}


def find_commit() -> str:
    """Return the SHA of the commit that is checked out, "none" outside git."""
    return _git("rev-parse", "HEAD") or "none"


def _git(*arguments: str) -> str | None:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
