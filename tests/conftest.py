"""Fixtures: a tiny copy of the project, with its own git, DVC and MLflow stores."""

import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from projects import LISTENER, LOCATIONS, copy_project, run

# A shell that starts the tests in the background ignores SIGINT, in all that they start too.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a tiny project in which nothing has run yet."""
    return copy_project(tmp_path / "project")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the longest file, so that one worker runs it while the other runs the rest."""
    items.sort(key=lambda item: item.path.name != "test_pipeline.py")


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny project whose pipeline has run, to look at; connections.log beside it lists connections."""
    folder = tmp_path_factory.mktemp("once")
    (folder / "sitecustomize.py").write_text(LISTENER.format(log=str(folder / "connections.log")))
    project = copy_project(folder / "project")
    run("dvc", "repro", cwd=project, PYTHONPATH=str(folder))
    return project


@pytest.fixture
def finished(once: Path, tmp_path: Path) -> Path:
    """Return a copy of a tiny project whose pipeline has run, to change."""
    copy = Path(shutil.copytree(once, tmp_path / "finished", symlinks=True))
    with closing(sqlite3.connect(copy / "mlruns" / "mlflow.db")) as store:
        for table, column in LOCATIONS.items():
            store.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (str(once), str(copy)))
        store.commit()
    return copy
