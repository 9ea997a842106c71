"""What can happen to an SQLite store is an error in three parts, or is mended."""

import os
import re
import resource
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import alembic.command
import mlflow
import pytest
from mlflow.store.db.utils import _get_alembic_config  # pyright: ignore[reportPrivateUsage]
from processes import FORKED
from projects import WARM, clean_environment
from stores import make_tables, working_in

from pneumonia.core.errors import InputError
from pneumonia.registry.versions import list_versions
from pneumonia.tracking import sqlite_store
from pneumonia.tracking.connection import EXPERIMENT, connect, has_store
from pneumonia.tracking.failures import UnreachableError, reaching


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a project without a store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    Path("dvc.yaml").touch()
    return tmp_path


def refuse(match: str) -> str:
    with pytest.raises(InputError, match=match) as caught:
        connect()
    assert re.fullmatch(r"\S.*\n  Expected: \S.*\n  Remedy: \S.*", str(caught.value))
    return str(caught.value)


def test_reading_creates_nothing(project: Path):
    assert not has_store() and list_versions() == []
    assert [path.name for path in project.iterdir()] == ["dvc.yaml"]


def test_outside_a_project_nothing_is_created_and_the_error_says_where_to_go(project: Path):
    (project / "dvc.yaml").unlink()
    assert "cd" in refuse("is not the folder of a project")
    with pytest.raises(InputError, match="is not the folder of a project"):
        has_store()
    assert list(project.iterdir()) == []


def connect_in(project: Path, barrier: Any, numbers: Any) -> None:
    os.chdir(project)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    barrier.wait(60)
    numbers.put(connect())


def test_commands_that_make_the_store_at_once_all_succeed(project: Path):
    barrier, numbers = FORKED.Barrier(3), FORKED.Queue()
    started = [FORKED.Process(target=connect_in, args=(project, barrier, numbers)) for _ in range(3)]
    for process in started:
        process.start()
    assert [numbers.get(timeout=120) for _ in started] == ["1"] * 3
    for process in started:
        process.join()


@pytest.mark.parametrize(
    "uri, match",
    [
        ("htp://ann:secret@host", "cannot be used"),
        ("mlruns", "cannot be used"),
        ("sqlite:///nowhere/mlflow.db", "there is no folder"),
        ("sqlite:////dev/null/mlflow.db", "there is no folder"),
    ],
)
def test_a_mistyped_address_is_an_error_and_creates_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch, uri: str, match: str
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.set_tracking_uri(None)  # pyright: ignore[reportArgumentType]
    assert "secret" not in refuse(match)
    assert [path.name for path in project.iterdir()] == ["dvc.yaml"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("damage", ["truncated", "garbage"])
def test_a_damaged_store_is_kept_beside_a_new_one(project: Path, damage: str, capsys: pytest.CaptureFixture[str]):
    whole = Path(make_tables().name, "mlflow.db").read_bytes()
    content = whole[: len(whole) // 2] if damage == "truncated" else b"no database" * 1000
    (store := project / "mlruns/mlflow.db").parent.mkdir()
    store.write_bytes(content)
    with pytest.raises(InputError, match=f"{store} is damaged"):
        has_store()  # who only reads repairs nothing
    assert connect() == "1"
    assert store.with_name("mlflow.db.damaged").read_bytes() == content
    assert "mlflow.db.damaged" in capsys.readouterr().err


@pytest.mark.usefixtures("quick")
def test_an_empty_file_becomes_a_store(project: Path):
    (project / "mlruns").mkdir()
    (project / "mlruns/mlflow.db").touch()
    assert not has_store()
    connect()
    assert has_store() and not list((project / "mlruns").glob("*damaged*"))


def test_a_deleted_experiment_is_restored(tmp_path: Path):
    with working_in(tmp_path):
        mlflow.MlflowClient().delete_experiment(number := connect())
        assert connect() == number
        assert mlflow.get_experiment_by_name(EXPERIMENT).lifecycle_stage == "active"  # pyright: ignore


def test_a_store_that_another_program_holds_is_waited_for_then_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sqlite_store, "WAIT", 0.2)
    with working_in(tmp_path) as store, closing(sqlite3.connect(store, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UnreachableError, match=f"{store} is held by another program"):
            connect()
    assert "waiting" in capsys.readouterr().err


@pytest.mark.parametrize("write", ["CREATE TABLE more (x)", "UPDATE experiments SET name = ''"])
def test_a_store_that_cannot_be_written_is_an_error(tmp_path: Path, write: str):
    with (
        working_in(tmp_path) as store,
        closing(sqlite3.connect(f"{store.as_uri()}?mode=ro", uri=True)) as opened,
        pytest.raises(InputError, match="cannot be written while promoting"),
        reaching("promoting"),
    ):
        opened.execute(write)


def test_a_store_that_does_not_fit_on_its_disk_is_an_error(tmp_path: Path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with working_in(tmp_path) as store, pytest.raises(InputError, match="cannot be read or written while promoting"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (store.stat().st_size, limits[1]))
        try:
            with reaching("promoting"):
                mlflow.MlflowClient().create_registered_model("large", description="x" * 100_000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_store_that_cannot_be_made_is_an_error(project: Path):
    (project / "mlruns").touch()
    refuse("cannot be made: File exists")


def test_a_store_of_an_older_release_is_upgraded_after_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clean_environment()
    monkeypatch.setattr(sys, "executable", str(WARM / "python"))
    with working_in(tmp_path) as store:
        alembic.command.downgrade(_get_alembic_config(f"sqlite:///{store}"), "-1")
        with closing(sqlite3.connect(store)) as opened:
            (old,) = opened.execute("SELECT version_num FROM alembic_version").fetchone()
        assert connect() == "1"
        assert store.with_name(f"mlflow.db.{old}").exists()
        with closing(sqlite3.connect(store)) as opened:
            assert opened.execute("SELECT version_num FROM alembic_version").fetchone() != (old,)


def test_a_store_of_a_newer_release_is_refused_as_it_is(tmp_path: Path):
    with working_in(tmp_path) as store:
        with closing(sqlite3.connect(store)) as opened, opened:
            opened.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
        before = store.read_bytes()
        refuse("newer MLflow .*ffffffffffff")
        assert store.read_bytes() == before


def test_another_store_than_the_project_s_own_is_neither_repaired_nor_upgraded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "other.db").write_bytes(Path(make_tables().name, "mlflow.db").read_bytes()[:9000])
    before = sorted(os.listdir(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    refuse("damaged")
    assert sorted(os.listdir(tmp_path)) == before
