"""MLflow stores for tests."""

import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
import pytest

from benchmarks.servers import HOST, find_port, serving
from pneumonia.tracking.connection import PATIENCE, connect


@cache
def make_tables() -> TemporaryDirectory[str]:
    """Return a folder with an empty store: creating its tables takes seconds, a copy does not."""
    folder = TemporaryDirectory()  # deleted when the process ends
    mlflow.MlflowClient(f"sqlite:///{folder.name}/mlflow.db").search_experiments()
    return folder


def restore(source: Path, target: Path) -> None:
    """Make a store what another one is, while MLflow has it open."""
    with closing(sqlite3.connect(source)) as store, closing(sqlite3.connect(target)) as other:
        store.backup(other)


@contextmanager
def working_in(folder: Path, store: Path | None = None, **environment: str) -> Iterator[Path]:
    """Work in a project, with MLflow connected to its store, made if there is none, and yield the store's file.

    Args:
        folder: of the project.
        store: file to copy the store from, since creating tables takes seconds. Its artifacts are shared, not copied.
            A store that is there becomes what this one is: MLflow is faster with a file that it knows.
        environment: variables to set meanwhile.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "PNEUMONIA_PROMOTER"):
            patch.delenv(name, raising=False)
        for name, value in PATIENCE.items():  # else `connect` leaves them to other tests
            patch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", value)
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.chdir(folder)
        if not Path("mlruns").exists():
            Path("mlruns").mkdir()
            shutil.copy(store or Path(make_tables().name, "mlflow.db"), "mlruns")
            if store:
                Path("mlruns/artifacts").symlink_to(store.parent / "artifacts")
        elif store:
            restore(store, Path("mlruns/mlflow.db"))
        connect()
        try:
            yield folder / "mlruns" / "mlflow.db"
        finally:
            mlflow.set_tracking_uri(None)  # pyright: ignore[reportArgumentType]


@contextmanager
def serving_store(store: Path) -> Iterator[str]:
    """Serve a store as `mlflow server` does while the block runs, and yield its address."""
    address = f"http://{HOST}:{(port := find_port())}"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{store}"]
    command += ["--port", str(port), "--workers", "1"]
    # Jobs would start seven processes that nobody needs here.
    with serving(command, f"{address}/health", store.parent, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"):
        yield address
