"""A store goes where its project goes: no copy reads from, writes into or deletes from the first project."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from projects import run
from stores import working_in

from pneumonia.tracking.connection import connect
from pneumonia.tracking.locations import COLUMNS


def log(text: str) -> str:
    """Record a run with an artifact and return its id."""
    with mlflow.start_run(experiment_id=connect()) as run:
        mlflow.log_text(text, "note.txt")
    return run.info.run_id


def read(run_id: str) -> str:
    return mlflow.artifacts.load_text(f"runs:/{run_id}/note.txt")


def list_locations(store: Path) -> set[str]:
    with closing(sqlite3.connect(store)) as opened:
        return {row[0] for table, column in COLUMNS for row in opened.execute(f"SELECT {column} FROM {table}")}


@pytest.fixture
def first(tmp_path: Path) -> tuple[Path, str]:
    """Return a project and its run."""
    (project := tmp_path / "first").mkdir()
    with working_in(project):
        return project, log("first")


def test_no_location_in_a_store_names_the_place_of_its_project(first: tuple[Path, str]):
    locations = list_locations(first[0] / "mlruns/mlflow.db")
    assert locations and all(location.startswith("mlruns/") for location in locations)


@pytest.mark.parametrize("name", ["renamed", "with blank", "50% done", "a/deeper/place"])
def test_a_moved_project_reads_its_artifacts(first: tuple[Path, str], tmp_path: Path, name: str):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    first[0].rename(tmp_path / name)
    with working_in(tmp_path / name):
        assert read(first[1]) == "first"


def test_a_copy_writes_into_itself(first: tuple[Path, str], tmp_path: Path):
    before = sorted(first[0].rglob("*"))
    shutil.copytree(first[0], tmp_path / "copy")
    with working_in(tmp_path / "copy"):
        assert read(log("second")) == "second"
        assert len(list(Path("mlruns/artifacts").rglob("note.txt"))) == 2
    assert sorted(first[0].rglob("*")) == before


def test_gc_in_a_copy_that_nothing_opened_before_deletes_there_alone(first: tuple[Path, str], tmp_path: Path):
    shutil.copytree(first[0], tmp_path / "copy")
    with closing(sqlite3.connect(tmp_path / "copy/mlruns/mlflow.db")) as store, store:
        store.execute("UPDATE runs SET lifecycle_stage = 'deleted', deleted_time = 1")
    uri = "sqlite:///mlruns/mlflow.db"
    run("python", "-m", "mlflow", "gc", "--backend-store-uri", uri, cwd=tmp_path / "copy", MLFLOW_TRACKING_URI=uri)
    assert not list((tmp_path / "copy").rglob("note.txt")) and len(list(first[0].rglob("note.txt"))) == 1


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_whole_paths_of_an_earlier_release_become_relative(first: tuple[Path, str], tmp_path: Path, scheme: str):
    store = first[0] / "mlruns/mlflow.db"
    with closing(sqlite3.connect(store)) as opened, opened:
        for table, column in COLUMNS[:4]:
            opened.execute(f"UPDATE {table} SET {column} = ? || {column}", (f"{scheme}{first[0]}/",))
    shutil.copytree(first[0], tmp_path / "copy")
    with working_in(tmp_path / "copy") as copied:
        assert read(first[1]) == "first"
        shutil.rmtree(first[0])
        assert read(first[1]) == "first"
        assert all(location.startswith("mlruns/") for location in list_locations(copied))


def test_locations_that_somebody_chose_elsewhere_stay(first: tuple[Path, str], tmp_path: Path):
    with working_in(first[0]) as store:
        mlflow.MlflowClient().create_experiment("own", f"{tmp_path}/disk/mlruns/own")
        connect()
        assert f"{tmp_path}/disk/mlruns/own" in list_locations(store)


def test_an_experiment_in_a_temporary_work_tree_writes_into_its_project(first: tuple[Path, str]):
    tree = first[0] / ".dvc/tmp/exps/standalone/tree"
    (tree / "mlruns").mkdir(parents=True)
    with working_in(tree):
        assert read(log("experiment")) == "experiment"
    assert len(list((first[0] / "mlruns").rglob("note.txt"))) == 2
