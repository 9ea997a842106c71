"""Promotions exclude one another, on one machine or many, and whatever happens to them leaves nothing behind."""

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, RESOURCE_DOES_NOT_EXIST
from processes import FORKED
from stores import serving_store, working_in
from versions import find_champion

from pneumonia.core.errors import InputError
from pneumonia.registry import lock
from pneumonia.registry.audit import read_audit
from pneumonia.registry.lock import LOCK, PromotionRefusedError
from pneumonia.registry.promotion import promote, rollback
from pneumonia.registry.versions import MODEL_NAME
from pneumonia.tracking.connection import connect

OLD = 1000 * (lock.STALE + 60)  # milliseconds


@pytest.fixture(autouse=True)
def store(registered: Path, home: Path) -> Iterator[Path]:
    with working_in(home, registered) as store:
        yield store


def crown(version: str) -> None:
    promote(version, find_champion(), "better", {}, "Ada")


def take_lock(by: str) -> None:
    connect()
    mlflow.MlflowClient().create_registered_model(LOCK, description=by)


def age_lock(store: Path) -> None:
    """Make the lock look as if it was taken six minutes ago."""
    with closing(sqlite3.connect(store)) as database, database:
        database.execute("UPDATE registered_models SET creation_time = creation_time - ? WHERE name = ?", [OLD, LOCK])


def list_left() -> list[str]:
    """Return the registered models beside the real one."""
    connect()
    return [model.name for model in mlflow.MlflowClient().search_registered_models() if model.name != MODEL_NAME]


# Run in other processes.

barrier: Any = None


def meet(met: Any) -> None:
    global barrier
    barrier = met


def enter(folder: Path, uri: str | None = None) -> None:
    """Work in a project, with its own store or a server's."""
    os.chdir(folder)
    mlflow.set_tracking_uri(None)  # pyright: ignore[reportArgumentType]
    os.environ.pop("MLFLOW_TRACKING_URI", None)  # of the test that started the first process
    os.environ |= {"MLFLOW_TRACKING_URI": uri} if uri else {}
    connect()


def attempt(folder: Path, uri: str | None, version: str, expected: str | None) -> str:
    """Promote at the same moment as another process, and return what came of it."""
    enter(folder, uri)
    barrier.wait(60)
    try:
        promote(version, expected, "better", {}, f"friend of {version}")
    except PromotionRefusedError as error:
        return str(error)
    return "promoted"


def die(folder: Path, before: str) -> None:
    """Promote version 2 and be killed right before a call of MLflow's client."""

    def kill(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    enter(folder)
    setattr(mlflow.MlflowClient, before, kill)
    promote("2", "1", "better", {}, "Unlucky")


@pytest.fixture(scope="module")
def two() -> Iterator[ProcessPoolExecutor]:
    """Return a pool of two processes."""
    # As on two machines, they share nothing but the store.
    with ProcessPoolExecutor(2, FORKED, meet, (FORKED.Barrier(2),)) as pool:
        yield pool


def race(two: ProcessPoolExecutor, uri: str | None = None) -> tuple[str, str]:
    """Start two promotions judged against the same champion; return the winner and the other's error."""
    expected = find_champion()
    rivals = [version for version in "1234" if version != expected][:2]
    running = [two.submit(attempt, Path.cwd(), uri, version, expected) for version in rivals]
    outcomes = {version: future.result() for version, future in zip(rivals, running, strict=True)}
    winner, loser = sorted(rivals, key=lambda version: outcomes[version] != "promoted")
    assert [outcomes[version] == "promoted" for version in (winner, loser)] == [True, False], outcomes
    return winner, outcomes[loser]


def test_one_of_two_simultaneous_promotions_wins_and_the_other_is_told(two: ProcessPoolExecutor):
    for past in range(3):
        winner, error = race(two)
        assert f"first: version {winner} by friend of {winner} at" in error
        assert find_champion() == winner
        assert [record["took_place"] for record in read_audit()] == [True] * (past + 1)
        assert read_audit()[-1]["by"] == f"friend of {winner}"
    assert list_left() == []


def test_one_of_two_that_find_a_stale_lock_wins_and_nothing_is_left(two: ProcessPoolExecutor, store: Path):
    for past in range(2):
        take_lock("Unlucky")
        age_lock(store)
        winner, error = race(two)
        assert f"first: version {winner} by" in error
        assert (find_champion(), len(read_audit()), list_left()) == (winner, past + 1, [])


@pytest.mark.parametrize(
    "before, champion, took_place",
    [("set_registered_model_tag", "1", [True]), ("set_registered_model_alias", "1", [True, False]),
     ("delete_registered_model", "2", [True, True])],
)  # fmt: skip
def test_a_killed_promotion_took_place_or_did_not_and_delays_no_other_on_its_machine(
    before: str, champion: str, took_place: list[bool], store: Path, capsys: pytest.CaptureFixture[str]
):
    crown("1")
    killed = FORKED.Process(target=die, args=(store.parent.parent, before))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert find_champion() == champion
    assert [record["took_place"] for record in read_audit()] == took_place

    promote("3", champion, "better", {}, "Ada")
    assert "Broke the lock of a process that was killed: Unlucky on" in capsys.readouterr().out
    assert (find_champion(), list_left()) == ("3", [])
    assert [record["took_place"] for record in read_audit()] == [*took_place, True]
    assert rollback("worse", "Ada")["version"] == champion


def test_a_run_with_nothing_to_promote_deletes_what_a_promotion_left_that_was_killed_at_its_end(
    store: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lock, "WAIT", 0.1)
    crown("1")
    killed = FORKED.Process(target=die, args=(store.parent.parent, "delete_registered_model"))
    killed.start()
    killed.join()
    mlflow.MlflowClient().rename_registered_model(LOCK, f"{LOCK}.broken-1")  # by another one, killed too
    take_lock("Eve on host since today, process 1 of elsewhere, 12345678")
    lock.sweep_locks("Ada")
    assert list_left() == [LOCK, f"{LOCK}.broken-1"]
    age_lock(store)
    lock.sweep_locks("Ada")
    assert list_left() == []


def interrupt(call: str, act: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, *, after: bool) -> None:
    """Do something once, before or after a call of MLflow's client."""
    real = getattr(mlflow.MlflowClient, call)

    def call_and_act(*arguments: Any, **named: Any) -> Any:
        monkeypatch.setattr(mlflow.MlflowClient, call, real)
        if after:
            answer = real(*arguments, **named)
            act()
            return answer
        act()
        return real(*arguments, **named)

    monkeypatch.setattr(mlflow.MlflowClient, call, call_and_act)


@pytest.mark.parametrize(
    "after, trail",
    [("search_model_versions", [("1", True), ("3", True)]),
     ("set_registered_model_tag", [("1", True), ("2", False), ("3", True)])],
)  # fmt: skip
def test_a_promotion_whose_lock_was_broken_while_it_slept_does_not_take_place(
    after: str, trail: list[tuple[str, bool]], store: Path, monkeypatch: pytest.MonkeyPatch
):
    crown("1")

    def overtake() -> None:
        age_lock(store)
        promote("3", "1", "better", {}, "Bob")

    interrupt(after, overtake, monkeypatch, after=True)
    with pytest.raises(PromotionRefusedError, match="took too long"):
        promote("2", "1", "better", {}, "Ada")
    assert [(record["version"], record["took_place"]) for record in read_audit()] == trail
    assert (find_champion(), list_left()) == ("3", [])


@pytest.mark.parametrize("swept", [False, True])
def test_a_client_that_finds_a_stale_lock_too_late_leaves_the_fresh_one_in_place(
    swept: bool, store: Path, monkeypatch: pytest.MonkeyPatch
):
    take_lock("Unlucky")
    age_lock(store)
    client = mlflow.MlflowClient()
    broken = f"{LOCK}.broken-{client.get_registered_model(LOCK).creation_timestamp}"

    def overtake() -> None:
        client.rename_registered_model(LOCK, broken)
        if swept:  # by another promotion that began and ended since
            client.delete_registered_model(broken)
        take_lock("Eve")

    interrupt("rename_registered_model", overtake, monkeypatch, after=False)
    monkeypatch.setattr(lock, "WAIT", 0.1)
    with pytest.raises(PromotionRefusedError, match="Eve"):
        crown("1")
    assert sorted(list_left()) == [LOCK] if swept else [LOCK, broken]


def test_the_next_promotion_deletes_what_broken_locks_left():
    connect()
    for number in (1, 2):
        mlflow.MlflowClient().create_registered_model(f"{LOCK}.broken-{number}")
    crown("1")
    assert (find_champion(), list_left()) == ("1", [])


@pytest.mark.parametrize(
    "after, code",
    [(True, RESOURCE_ALREADY_EXISTS), (False, RESOURCE_DOES_NOT_EXIST)],
    ids=["answer lost", "just released"],
)
def test_a_lock_of_its_own_or_just_released_does_not_stop_a_promotion(
    after: bool, code: int, monkeypatch: pytest.MonkeyPatch
):
    def fail() -> None:
        raise MlflowException("as MLflow says it", code)

    interrupt("create_registered_model", fail, monkeypatch, after=after)
    crown("1")
    assert (find_champion(), list_left()) == ("1", [])


@pytest.mark.parametrize(
    "process, machine",
    [(os.getpid(), lock._find_machine()), (1 << 22, "elsewhere")],
    ids=["lives here", "is elsewhere"],
)
def test_a_process_that_lives_here_or_is_elsewhere_keeps_its_lock_for_five_minutes(
    process: int, machine: str, monkeypatch: pytest.MonkeyPatch
):
    take_lock(f"Eve on host since today, process {process} of {machine}, 12345678")
    monkeypatch.setattr(lock, "WAIT", 0.1)
    with pytest.raises(PromotionRefusedError, match=r"under way: Eve on .*\n.*0 seconds\n.*5 minutes"):
        crown("1")
    assert list_left() == [LOCK]


def test_a_promotion_waits_for_another_to_end():
    take_lock("Eve")
    ends = threading.Timer(0.5, lambda: mlflow.MlflowClient().delete_registered_model(LOCK))
    ends.start()
    crown("1")
    ends.join()
    assert find_champion() == "1"


def test_a_promotion_waits_for_a_locked_database(store: Path):
    with closing(sqlite3.connect(store, check_same_thread=False)) as database:
        database.execute("BEGIN IMMEDIATE")
        ends = threading.Timer(1, database.rollback)
        started = time.monotonic()
        ends.start()
        promote("1", None, "better", {}, "Ada")
        waited = time.monotonic() - started
        ends.join()
    assert waited > 0.9
    assert find_champion() == "1"


def test_promotions_work_the_same_over_http(two: ProcessPoolExecutor, store: Path, monkeypatch: pytest.MonkeyPatch):
    crown("1")
    crown("2")
    mlflow.set_tracking_uri(None)  # pyright: ignore[reportArgumentType]
    with serving_store(store) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert mlflow.get_tracking_uri() == uri
        winner, error = race(two, uri)
        assert f"first: version {winner} by friend of {winner} at" in error
        assert find_champion() == winner
        take_lock("Unlucky")
        age_lock(store)
        winner, _ = race(two, uri)
        assert (find_champion(), list_left()) == (winner, [])
        rollback("worse", "Bob")
        with pytest.raises(InputError, match="no version 9"):
            promote("9", find_champion(), "better", {}, "Ada")
        champion, trail = find_champion(), read_audit()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert len(trail) == 5
    assert (find_champion(), read_audit(), list_left()) == (champion, trail, [])
