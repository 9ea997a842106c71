"""MLflow stores for tests."""

import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
import pytest
import requests
import uvicorn
from mlflow import server
from processes import FORKED

from benchmarks.servers import HOST, find_port
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
def serving_store(store: Path, port: int | None = None) -> Iterator[str]:
    """Serve a store, with artifacts beside it, as `mlflow server` does while the block runs, and yield its address."""
    address, process = start_server(store, port or find_port())
    try:
        yield address
    finally:
        process.terminate()
        process.join()


def start_server(store: Path, port: int) -> tuple[str, ForkServerProcess]:
    """Start such a server, and return its address once it answers, and its process."""
    process = FORKED.Process(target=_serve, args=(store, port), daemon=True)
    process.start()
    address, deadline = f"http://{HOST}:{port}", time.monotonic() + 120
    while not _answers(address):
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.05)
    return address, process


def _serve(store: Path, port: int) -> None:
    # As `mlflow server --workers=1` sets and starts, but for the seconds that two more imports take.
    os.environ |= {
        server.BACKEND_STORE_URI_ENV_VAR: f"sqlite:///{store}", server.ARTIFACT_ROOT_ENV_VAR: "mlflow-artifacts:/",
        server.SERVE_ARTIFACTS_ENV_VAR: "true", server.ARTIFACTS_DESTINATION_ENV_VAR: str(store.parent / "artifacts"),
        "_MLFLOW_SGI_NAME": "uvicorn", "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }  # fmt: skip
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    uvicorn.run("mlflow.server.fastapi_app:app", host=HOST, port=port, log_level="error")


def _answers(address: str) -> bool:
    try:
        return requests.get(f"{address}/health", timeout=5).ok
    except requests.RequestException:
        return False
