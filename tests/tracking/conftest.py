"""Stores that are made in a moment."""

import shutil
from pathlib import Path

import pytest
from stores import make_tables

from pneumonia.tracking import connection


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copy the tables of a new store, since creating them takes seconds."""
    made = Path(make_tables().name, "mlflow.db")
    monkeypatch.setattr(connection, "_make_tables", lambda file: shutil.copy(made, file))
