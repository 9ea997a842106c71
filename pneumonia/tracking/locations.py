"""Keep the locations of artifacts relative to the project, so that a store goes wherever its project goes.

MLflow stores whole paths: a moved project loses its artifacts, a copied one writes into the first and deletes from it.
What is relative MLflow looks up from its working directory, which for `mlflow ui` and `mlflow gc` is the project's
folder. In processes of our own, it is looked up from the folder that holds the store.
"""

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, unquote

from mlflow.store.artifact.artifact_repository_registry import (
    _artifact_repository_registry as repositories,  # pyright: ignore[reportPrivateUsage]
)
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from pneumonia.core.files import project_home
from pneumonia.tracking.address import find_file

HOME = "mlruns/"  # what relative locations start with
COLUMNS = (
    ("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"),
    ("model_versions", "source"), ("model_versions", "storage_location"), ("trace_tags", "value"),
)  # fmt: skip


def make_relative(file: Path) -> None:
    """Make all locations below the project's `mlruns` relative, wherever the project was when they were stored.

    Takes one query unless there is something to do, and one transaction then. A store that cannot be written is left as
    it is.
    """
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True, timeout=30)) as store:
        if not (roots := _find_roots(store)):
            return
        try:
            with store:
                for table, column in COLUMNS:
                    for root in roots:
                        store.execute(
                            f"UPDATE {table} SET {column} = substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                            (len(root) + 1, len(root + HOME), root + HOME),
                        )
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith("SQLITE_READONLY"):
                raise


def _find_roots(store: sqlite3.Connection) -> set[str]:
    """Return where the project was, as paths and as URIs."""
    roots: set[str] = set()
    # MLflow puts an experiment into mlruns/NUMBER unless told otherwise, this project into mlruns/artifacts.
    for number, location in store.execute("SELECT experiment_id, artifact_location FROM experiments"):
        if found := re.fullmatch(rf"(file://)?(/(?:.*/)?){HOME}(?:artifacts|{number})", location or ""):
            path = unquote(found[2]) if found[1] else found[2]
            roots |= {path, f"file://{quote(path)}"}
    return roots


def _open_artifacts(
    uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
) -> LocalArtifactRepository:
    file = find_file()
    home = file.parent.parent if file else project_home()
    path = (home if uri.startswith(HOME) else Path.cwd()) / uri
    return LocalArtifactRepository(path.as_uri(), tracking_uri, registry_uri)


repositories.register("", _open_artifacts)
