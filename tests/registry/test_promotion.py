"""There is one champion at any time, made by one person for one reason, in a real MLflow store."""

import getpass
import json
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, RESOURCE_DOES_NOT_EXIST
from stores import working_in

from benchmarks.servers import find_port
from pneumonia.core.errors import InputError
from pneumonia.registry import promotion as promotion
from pneumonia.registry.promotion import (
    LIMIT,
    LOCK,
    MODEL_NAME,
    PromotionRefusedError,
    find_alias,
    find_promoter,
    promote,
    read_audit,
    rollback,
)
from pneumonia.tracking.connection import connect

SPAWN = multiprocessing.get_context("spawn")  # as two machines have it: nothing shared but the store
OLD = 1000 * (promotion.STALE + 60)  # milliseconds


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with versions 1 to 4 of a model that nobody will load, none of them champion."""
    with working_in(tmp_path_factory.mktemp("registered")) as store:
        client = mlflow.MlflowClient()
        client.create_registered_model(MODEL_NAME)
        for _ in range(4):
            client.create_model_version(MODEL_NAME, "file:nowhere")
        return store


@pytest.fixture(autouse=True)
def store(registered: Path, tmp_path: Path) -> Iterator[Path]:
    with working_in(tmp_path, registered) as store:
        yield store


def find_champion() -> str | None:
    champion = find_alias("champion")
    return str(champion.version) if champion else None


def crown(*versions: str) -> None:
    """Promote versions one after the other."""
    for version in versions:
        promote(version, find_champion(), f"{version} is better", {}, "Ada")


def list_locks() -> list[str]:
    connect()
    return [model.name for model in mlflow.MlflowClient().search_registered_models() if model.name != MODEL_NAME]


def age_lock(store: Path) -> None:
    """Let the lock that is there have been left five minutes ago."""
    with closing(sqlite3.connect(store)) as database, database:
        database.execute("UPDATE registered_models SET creation_time = creation_time - ? WHERE name = ?", [OLD, LOCK])


# Run in other processes.

barrier: Any = None


def meet(met: Any) -> None:
    global barrier
    barrier = met


def attempt(folder: Path, uri: str | None, version: str, expected: str | None) -> str:
    """Promote at the same moment as somebody else, and return what came of it."""
    os.chdir(folder)
    mlflow.set_tracking_uri(None)  # pyright: ignore[reportArgumentType]
    os.environ |= {"MLFLOW_TRACKING_URI": uri} if uri else {}
    connect()
    barrier.wait(60)
    try:
        promote(version, expected, "better", {}, f"friend of {version}")
    except PromotionRefusedError as error:
        return str(error)
    finally:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    return "promoted"


def die(folder: Path, before: str) -> None:
    """Promote version 2 and be killed before a certain call of MLflow's client."""

    def kill(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    os.chdir(folder)
    setattr(mlflow.MlflowClient, before, kill)
    promote("2", "1", "better", {}, "Unlucky")


@pytest.fixture(scope="module")
def two() -> Iterator[ProcessPoolExecutor]:
    """Return two processes."""
    with ProcessPoolExecutor(2, SPAWN, meet, (SPAWN.Barrier(2),)) as pool:
        yield pool


def race(two: ProcessPoolExecutor, uri: str | None = None) -> tuple[str, str]:
    """Let two who judged by the same champion promote at once; return who won, and what the other was told."""
    expected = find_champion()
    rivals = [version for version in "1234" if version != expected][:2]
    running = [two.submit(attempt, Path.cwd(), uri, version, expected) for version in rivals]
    outcomes = {version: future.result() for version, future in zip(rivals, running, strict=True)}
    winner, loser = sorted(rivals, key=lambda version: outcomes[version] != "promoted")
    assert [outcomes[version] == "promoted" for version in (winner, loser)] == [True, False], outcomes
    return winner, outcomes[loser]


def test_a_promotion_moves_the_alias_and_keeps_who_and_why():
    crown("1")
    before = datetime.now(UTC).replace(microsecond=0)
    promote("3", "1", "it finds more", {"roc_auc": [0.98, 0.97]}, "Ada Lovelace", forced=True)
    record = read_audit()[-1]
    assert before <= datetime.fromisoformat(record.pop("at")) <= before + timedelta(minutes=1)
    assert record == {
        "action": "promote", "version": "3", "former": "1", "by": "Ada Lovelace", "reason": "it finds more",
        "forced": True, "evidence": {"roc_auc": [0.98, 0.97]}, "took_place": True,
    }  # fmt: skip
    assert find_champion() == "3"
    assert list_locks() == []


def test_the_trail_is_kept_as_numbered_tags_of_the_model():
    crown("1", "2")
    tags = mlflow.MlflowClient().get_registered_model(MODEL_NAME).tags
    assert sorted(tags) == ["audit.0001", "audit.0002"]
    assert "took_place" not in json.loads(tags["audit.0002"])


def test_the_trail_stays_in_order_beyond_four_digits():
    crown("1")
    client = mlflow.MlflowClient()
    tag = client.get_registered_model(MODEL_NAME).tags["audit.0001"]
    client.set_registered_model_tag(MODEL_NAME, "audit.9999", tag)
    crown("2", "3")
    assert [record["version"] for record in read_audit()] == ["1", "1", "2", "3"]


def test_a_store_without_a_model_has_no_champion_and_an_empty_trail():
    connect()
    mlflow.MlflowClient().delete_registered_model(MODEL_NAME)
    assert (find_champion(), read_audit()) == (None, [])


def test_a_number_as_mlflow_returns_it_is_as_good_as_text():
    crown("1")
    champion = find_alias("champion")
    assert champion
    promote("2", champion.version, "better", {}, "Ada")  # pyright: ignore[reportArgumentType]
    assert read_audit()[-1]["former"] == "1"


@pytest.mark.parametrize("expected", ["1", None])
def test_who_judged_by_a_former_champion_is_refused_and_told_who_was_first(expected: str | None):
    crown("1", "2")
    at = read_audit()[-1]["at"]
    with pytest.raises(PromotionRefusedError, match=f"first: version 2 by Ada at {at}".replace("+", r"\+")) as refused:
        promote("3", expected, "better", {}, "Bob")
    assert ("Expected: version 1 as champion" if expected else "Expected: no champion yet") in str(refused.value)
    assert "Remedy: judge it against the present champion: dvc repro" in str(refused.value)
    assert (find_champion(), len(read_audit()), list_locks()) == ("2", 2, [])


def test_a_champion_made_by_hand_is_not_ascribed_to_anybody():
    crown("1", "2")
    mlflow.MlflowClient().set_registered_model_alias(MODEL_NAME, "champion", "4")
    with pytest.raises(PromotionRefusedError, match="version 4 by hand"):
        promote("3", "2", "better", {}, "Bob")


@pytest.mark.parametrize("reason", ["", "  \n"])
def test_what_overrules_a_check_needs_a_reason(reason: str):
    crown("1", "2")
    with pytest.raises(InputError, match="no reason"):
        promote("3", "2", reason, {}, "Ada", forced=True)
    with pytest.raises(InputError, match="no reason"):
        rollback(reason, "Ada")
    promote("3", "2", "", {}, "Ada")
    assert len(read_audit()) == 3


@pytest.mark.parametrize(
    "version, evidence, what",
    [("1", {}, "champion already"), ("9", {}, "no version 9"), ("latest", {}, "no version latest"),
     ("2", {"images": "x" * LIMIT}, "at most 5000")],
)  # fmt: skip
def test_what_cannot_be_promoted_leaves_no_record(version: str, evidence: dict[str, str], what: str):
    crown("1")
    with pytest.raises(InputError, match=what):
        promote(version, "1", "better", evidence, "Ada")
    assert (find_champion(), len(read_audit()), list_locks()) == ("1", 1, [])


def test_a_record_as_long_as_a_tag_may_be_is_kept():
    promote("1", None, "better", evidence := {"images": "x" * (LIMIT - 200)}, "Ada")
    assert read_audit()[0]["evidence"] == evidence


def test_a_rollback_restores_the_former_champion_and_is_on_record():
    crown("1", "2")
    rollback("2 misses effusions", "Bob")
    record = read_audit()[-1]
    assert find_champion() == "1"
    assert [record[field] for field in ("action", "version", "former", "by", "reason", "forced", "evidence")] == [
        "rollback", "1", "2", "Bob", "2 misses effusions", False, {}
    ]  # fmt: skip


def test_a_second_rollback_goes_further_back():
    crown("1", "2", "3")
    assert [rollback("worse", "Bob")["version"] for _ in range(2)] == ["2", "1"]
    with pytest.raises(InputError, match="no former champion"):
        rollback("worse", "Bob")
    assert find_champion() == "1"


def test_a_rollback_undoes_the_promotion_that_came_after_a_rollback():
    crown("1", "2")
    rollback("worse", "Bob")
    crown("3", "2")
    assert [rollback("worse", "Bob")["version"] for _ in range(2)] == ["3", "1"]


def test_a_version_may_be_champion_more_than_once():
    crown("1", "2", "1")
    assert [rollback("worse", "Bob")["version"] for _ in range(2)] == ["2", "1"]


def test_without_a_champion_there_is_nothing_to_go_back_to():
    with pytest.raises(InputError, match="no former champion"):
        rollback("worse", "Bob")


def test_a_former_champion_that_was_deleted_is_not_restored():
    crown("1", "2")
    mlflow.MlflowClient().delete_model_version(MODEL_NAME, "1")
    with pytest.raises(InputError, match=r"(?s)no version 1\..*not deleted.*registry promote"):
        rollback("worse", "Bob")
    assert (find_champion(), len(read_audit())) == ("2", 2)


def test_a_rollback_returns_from_what_was_set_by_hand():
    crown("1", "2")
    mlflow.MlflowClient().set_registered_model_alias(MODEL_NAME, "champion", "4")
    assert [rollback("worse", "Bob")["version"] for _ in range(2)] == ["2", "1"]


def test_a_rollback_restores_a_champion_whose_alias_was_deleted():
    crown("1", "2")
    mlflow.MlflowClient().delete_registered_model_alias(MODEL_NAME, "champion")
    assert [rollback("lost", "Bob")["version"] for _ in range(2)] == ["2", "1"]


def test_of_two_promotions_at_once_one_wins_and_the_other_is_told(two: ProcessPoolExecutor):
    for past in range(6):
        winner, told = race(two)
        assert f"first: version {winner} by friend of {winner} at" in told
        assert find_champion() == winner
        assert [record["took_place"] for record in read_audit()] == [True] * (past + 1)
        assert read_audit()[-1]["by"] == f"friend of {winner}"
    assert list_locks() == []


def test_of_two_who_find_a_lock_too_old_one_breaks_it_and_one_wins(two: ProcessPoolExecutor, store: Path):
    for past in range(4):
        connect()
        mlflow.MlflowClient().create_registered_model(LOCK, description="Unlucky")
        age_lock(store)
        winner, told = race(two)
        assert f"first: version {winner} by" in told
        assert (find_champion(), len(read_audit())) == (winner, past + 1)
        assert len(list_locks()) == past + 1
    assert all(name.startswith(f"{LOCK}.broken-") for name in list_locks())


@pytest.mark.parametrize(
    "before, champion, took_place",
    [("set_registered_model_tag", "1", [True]), ("set_registered_model_alias", "1", [True, False]),
     ("delete_registered_model", "2", [True, True])],
)  # fmt: skip
def test_a_promotion_that_is_killed_took_place_or_did_not_and_holds_others_up_for_a_while(
    before: str, champion: str, took_place: list[bool], store: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    crown("1")
    killed = SPAWN.Process(target=die, args=(store.parent.parent, before))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert find_champion() == champion
    assert [record["took_place"] for record in read_audit()] == took_place

    monkeypatch.setattr(promotion, "WAIT", 0.2)
    with pytest.raises(PromotionRefusedError, match=r"under way: Unlucky on .*\n.*0 seconds\n.*5 minutes"):
        promote("3", champion, "better", {}, "Ada")
    age_lock(store)
    promote("3", champion, "better", {}, "Ada")
    assert "broke the lock of a promotion that was killed: Unlucky on" in capsys.readouterr().out
    assert find_champion() == "3"
    assert [record["took_place"] for record in read_audit()] == [*took_place, True]
    assert rollback("worse", "Ada")["version"] == champion


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
def test_a_promotion_that_slept_while_another_broke_its_lock_does_not_take_place(
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
    assert find_champion() == "3"


def test_a_lock_that_somebody_else_breaks_first_is_not_broken_again(store: Path, monkeypatch: pytest.MonkeyPatch):
    connect()
    client = mlflow.MlflowClient()
    client.create_registered_model(LOCK, description="Unlucky")
    age_lock(store)
    broken = f"{LOCK}.broken-{client.get_registered_model(LOCK).creation_timestamp}"

    def overtake() -> None:
        client.rename_registered_model(LOCK, broken)
        client.create_registered_model(LOCK, description="Eve")

    interrupt("rename_registered_model", overtake, monkeypatch, after=False)
    monkeypatch.setattr(promotion, "WAIT", 0.1)
    with pytest.raises(PromotionRefusedError, match="Eve"):
        crown("1")
    assert sorted(list_locks()) == [LOCK, broken]


@pytest.mark.parametrize(
    "after, code", [(True, RESOURCE_ALREADY_EXISTS), (False, RESOURCE_DOES_NOT_EXIST)], ids=["unheard", "just gone"]
)
def test_a_lock_that_was_created_unheard_or_of_somebody_who_just_went_is_no_obstacle(
    after: bool, code: int, monkeypatch: pytest.MonkeyPatch
):
    def fail() -> None:
        raise MlflowException("as MLflow says it", code)

    interrupt("create_registered_model", fail, monkeypatch, after=after)
    crown("1")
    assert (find_champion(), list_locks()) == ("1", [])


def test_a_failed_promotion_leaves_the_lock_of_others_alone(monkeypatch: pytest.MonkeyPatch):
    connect()
    mlflow.MlflowClient().create_registered_model(LOCK, description="Eve")
    monkeypatch.setattr(promotion, "WAIT", 0.1)
    with pytest.raises(PromotionRefusedError, match="Eve"):
        crown("1")
    assert list_locks() == [LOCK]


def test_a_promotion_waits_for_another_to_end():
    connect()
    mlflow.MlflowClient().create_registered_model(LOCK, description="Eve")
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


@contextmanager
def serving(store: Path) -> Iterator[str]:
    """Serve a store as `mlflow server` does, and yield its address."""
    port = str(find_port())
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{store}", "--port", port]
    with (store.parent / "server.log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--workers", "1"], stdout=log, stderr=log, start_new_session=True,
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},  # seven processes that nobody needs here
        )  # fmt: skip
    try:
        for _ in range(600):
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                break
            assert server.poll() is None, (store.parent / "server.log").read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_promotions_over_http_are_the_same(two: ProcessPoolExecutor, store: Path, monkeypatch: pytest.MonkeyPatch):
    crown("1", "2")
    mlflow.set_tracking_uri(None)  # pyright: ignore[reportArgumentType]
    with serving(store) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert mlflow.get_tracking_uri() == uri
        for _ in range(3):
            winner, told = race(two, uri)
            assert f"first: version {winner} by friend of {winner} at" in told
            assert find_champion() == winner
        rollback("worse", "Bob")
        with pytest.raises(InputError, match="no version 9"):
            promote("9", find_champion(), "better", {}, "Ada")
        champion, trail = find_champion(), read_audit()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert len(trail) == 6
    assert (find_champion(), read_audit(), list_locks()) == (champion, trail, [])


def test_a_promoter_is_who_the_environment_or_else_git_names(monkeypatch: pytest.MonkeyPatch):
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["git", "config", "user.name", "Grace Hopper"], check=True)
    assert find_promoter() == "Grace Hopper"
    monkeypatch.setenv("PNEUMONIA_PROMOTER", "retraining, started by Ada")
    assert find_promoter() == "retraining, started by Ada"


@pytest.mark.parametrize("installed", [True, False])
def test_a_promoter_without_a_git_name_is_the_account(installed: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    monkeypatch.setenv("LOGNAME", "worker")
    if not installed:
        monkeypatch.setenv("PATH", "")
    assert find_promoter() == "worker"


def test_a_promoter_without_any_name_is_told_how_to_get_one(monkeypatch: pytest.MonkeyPatch):
    def find_none() -> str:
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(getpass, "getuser", find_none)
    with pytest.raises(InputError, match=r'Remedy: git config user\.name "\.\.\."'):
        find_promoter()
