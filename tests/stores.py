"""MLflow stores of projects of their own."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import pytest

from pneumonia.tracking.connection import PATIENCE, connect


@contextmanager
def working_in(folder: Path, store: Path | None = None, **environment: str) -> Iterator[Path]:
    """Work in an empty project that MLflow is connected to, and yield its store's file.

    Args:
        folder: of the project.
        store: of which the project gets a copy: making the tables takes seconds. Artifacts are not copied.
        environment: of the project.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "PNEUMONIA_PROMOTER"):
            patch.delenv(name, raising=False)
        for name, value in PATIENCE.items():  # else `connect` leaves them to other tests
            patch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", value)
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.chdir(folder)
        if store:
            Path("mlruns").mkdir()
            shutil.copy(store, "mlruns")
        connect()
        try:
            yield folder / "mlruns" / "mlflow.db"
        finally:
            mlflow.set_tracking_uri(None)  # pyright: ignore[reportArgumentType]
