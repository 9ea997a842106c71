"""Say which code made something: commit and library versions."""

import subprocess
from collections.abc import Iterable
from importlib.metadata import distributions

LIBRARIES = ("dvc", "keras", "mlflow", "numpy", "pandas", "pillow", "scikit-learn", "scipy", "tensorflow")


def describe_code() -> dict[str, str]:
    """Return git commit, whether tracked files differ from it, and library versions, as tags."""
    git = {"git_commit": find_commit(), "git_dirty": str(bool(_git("status", "--porcelain", "-uno")))}
    return git | {f"version.{library}": version for library, version in find_versions(LIBRARIES).items()}


def find_versions(libraries: Iterable[str]) -> dict[str, str]:
    """Return the version that is installed of each library."""
    # TensorFlow is installed as tensorflow or tensorflow_cpu; names are written in more than one way.
    installed = {found.name.lower().replace("_", "-").removesuffix("-cpu"): found.version for found in distributions()}
    return {library: installed[library] for library in libraries}


def find_commit() -> str:
    """Return the commit that is checked out, `none` outside git."""
    return _git("rev-parse", "HEAD")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() or ("" if done.returncode == 0 else "none")
