"""A tracking server that is away or dies stops no training; what it misses is sent later, once."""

import json
import os
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from mlflow.entities import Metric, Run
from phases import DATASET, FIGURE, FOUND, PARAMS, RANGE_TEST
from processes import FORKED
from stores import make_tables, start_server

from benchmarks.servers import find_port
from pneumonia.core.dataset import write_dataset
from pneumonia.core.errors import InputError
from pneumonia.core.files import sha256_file
from pneumonia.core.tables import write_table
from pneumonia.tracking import connection
from pneumonia.tracking.connection import PATIENCE, connect
from pneumonia.tracking.failures import UnreachableError
from pneumonia.tracking.phase_run import ensure_run, phase_run
from pneumonia.tracking.runs import find_run
from pneumonia.tracking.spool import find_spool, find_waiting, send_spooled

DATA, MODEL, STATE = Path("dataset.pkl"), Path("model.keras"), Path("state")
SAMPLE = "system/cpu_utilization_percentage"


class Server:
    """A server over SQLite in a folder, started and killed."""

    def __init__(self, folder: Path) -> None:
        self.store, self.port = folder / "mlflow.db", find_port()
        shutil.copy(Path(make_tables().name, "mlflow.db"), self.store)

    def start(self) -> None:
        self.uri, self.process = start_server(self.store, self.port)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


class Gate:
    """Stands before a server: lets requests pass, answers with a status of its own, or cuts the connection.

    `rule` is asked with the number of a request from 0, its method and its path; it returns None to let it pass, a
    status, or "lost": the server does what it is asked, then `lost` is called, and its answer never arrives.
    """

    def __init__(self, server: Server) -> None:
        gate, self.seen = self, 0
        self.rule: Callable[[int, str, str], int | str | None] = lambda number, method, path: None
        self.lost: Callable[[], None] = lambda: None

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                decision = gate.rule(gate.seen, self.command, self.path)
                gate.seen += 1
                status, content = decision, b"no"
                if not isinstance(decision, int):
                    behind = HTTPConnection("127.0.0.1", server.port)
                    behind.request(self.command, self.path, body, {**self.headers, "Host": f"127.0.0.1:{server.port}"})
                    answer = behind.getresponse()
                    status, content = answer.status, answer.read()
                    behind.close()
                self.close_connection = True
                if decision == "lost":
                    gate.lost()
                else:
                    assert isinstance(status, int)
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = answer  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def gate(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Return the gate through which this test reaches the server."""
    gate = Gate(server)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", gate.uri)
    yield gate
    gate.http.shutdown()
    gate.http.server_close()


@pytest.fixture(autouse=True)
def project(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in a project of its own, whose experiment on the server is its own too."""
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for name in set(PATIENCE) - {"MAX_RETRIES"}:
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", PATIENCE[name])
    monkeypatch.setattr("pneumonia.tracking.connection.EXPERIMENT", str(tmp_path))
    monkeypatch.setattr("pneumonia.tracking.phase_run.SAMPLING", 0.2)
    monkeypatch.chdir(tmp_path)
    write_dataset(DATASET, DATA)
    MODEL.write_bytes(os.urandom(8))
    mlflow.set_tracking_uri(None)  # pyright: ignore[reportArgumentType]
    yield tmp_path
    mlflow.set_tracking_uri(None)  # pyright: ignore[reportArgumentType]


def nowhere() -> str:
    """Return an address where nothing listens."""
    return f"http://127.0.0.1:{find_port()}"


def train(
    phase: str = "train", state: Path = STATE, before_epoch: Callable[[int], None] = lambda epoch: None, epochs: int = 3
) -> None:
    """Tell all that a phase tells, and remove its state as a finished phase does."""
    with phase_run(phase, PARAMS, DATASET, DATA, state) as run:
        run.log_range_test(RANGE_TEST, FOUND, FIGURE)
        for epoch in range(epochs):
            before_epoch(epoch)
            rates = pd.DataFrame({"learning_rate": [0.1, 0.2]}, [2 * epoch + 1, 2 * epoch + 2])
            run.log_epoch(epoch, {"loss": 1.0 - epoch / 10, "val_loss": float("nan")}, rates)
        run.log_best({"val_loss": 0.8})
        run.tag_model(MODEL)
    shutil.rmtree(state)


def restore() -> Run:
    """Record a phase whose outputs DVC restored."""
    return ensure_run(
        "train", PARAMS, DATA, MODEL, lambda section, notice, run, images: run.log_best({"val_loss": 0.8})
    )


def find_runs() -> list[Run]:
    return mlflow.MlflowClient().search_runs([connect()])


def points(run: Run, metric: str) -> list[Metric]:
    return mlflow.MlflowClient().get_metric_history(run.info.run_id, metric)


def check_complete(began: int, ended: int, epochs: int = 3) -> Run:
    """Assert that there is one run, with all of a phase that ran between two times, and return it."""
    (run,) = find_runs()
    assert run.info.status == "FINISHED"
    assert began <= run.info.start_time <= (run.info.end_time or 0) <= ended
    assert run.info.run_name == f"{PARAMS.recipe} train"
    assert run.data.params.items() >= {name: str(value) for name, value in PARAMS.flat().items()}.items()
    assert run.data.params["images.train"] == "6"
    expected = {"phase": "train", "dataset_sha256": sha256_file(DATA), "model_sha256": sha256_file(MODEL)}
    assert run.data.tags.items() >= (expected | {"mlflow.note.content": PARAMS.data.notice}).items()
    assert run.inputs
    assert sorted(i.dataset.name for i in run.inputs.dataset_inputs) == ["phantom test", "phantom train", "phantom val"]
    loss = points(run, "loss")
    assert [(point.step, point.value) for point in loss] == [(e + 1, 1.0 - e / 10) for e in range(epochs)]
    assert [point.step for point in points(run, "learning_rate")] == list(range(1, 2 * epochs + 1))
    assert len(points(run, "val_loss")) == epochs
    assert all(began <= point.timestamp <= ended for point in loss)
    assert [len(points(run, name)) for name in ("best_val_loss", "found_learning_rate", "duration_seconds")] == [1] * 3
    artifacts = mlflow.MlflowClient().list_artifacts(run.info.run_id, "range_test")
    assert [artifact.path for artifact in artifacts] == ["range_test/range_test.csv", "range_test/range_test.png"]
    stored = mlflow.artifacts.download_artifacts(f"runs:/{run.info.run_id}/range_test/range_test.csv")
    assert Path(stored).read_bytes() == write_expected()
    return run


def write_expected() -> bytes:
    """Return the table of the range test as a file holds it."""
    write_table(RANGE_TEST, Path("expected.csv"))
    return Path("expected.csv").read_bytes()


def now() -> int:
    return int(time.time() * 1000)


def start(target: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """Call a function in a process of its own, in this project and with this server."""
    process = FORKED.Process(target=enter, args=(Path.cwd(), os.environ["MLFLOW_TRACKING_URI"], target, *arguments))
    process.start()
    return process


def enter(project: Path, uri: str, target: Callable[..., None], *arguments: Any) -> None:
    os.chdir(project)
    os.environ |= {"MLFLOW_TRACKING_URI": uri, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    connection.EXPERIMENT = str(project)
    target(*arguments)


def send(barrier: Any = None, sent: Any = None) -> None:
    """Send what waits, at the same moment as another process if there is a barrier."""
    if barrier:
        barrier.wait(60)
    number = send_spooled()
    if sent:
        sent.put(number)


def die_in_second_epoch() -> None:
    train(before_epoch=lambda epoch: os.kill(os.getpid(), signal.SIGKILL) if epoch == 1 else None)


def test_while_the_server_answers_no_journal_is_written():
    began = now()
    train()
    check_complete(began, now())
    assert not find_spool().exists()


def test_a_server_killed_during_an_epoch_loses_nothing(server: Server, capsys: pytest.CaptureFixture[str]):
    def kill_in_second(epoch: int) -> None:
        deadline = time.monotonic() + 60
        while epoch == 0 and not points(find_runs()[0], SAMPLE) and time.monotonic() < deadline:
            time.sleep(0.1)
        if epoch == 1:
            server.kill()

    began = now()
    try:
        train(before_epoch=kill_in_second)
        ended, told = now(), capsys.readouterr()
        assert told.out.count("cannot be reached") == told.out.count("\n") == 1
        assert "mlruns/spool" in told.out and server.uri in told.out
        assert told.err == ""
        (journal,) = find_waiting()
        assert not STATE.exists() and "-train-" in journal.name
    finally:
        server.start()
    assert send_spooled() == 1
    assert len(points(check_complete(began, ended), SAMPLE)) >= 1
    assert find_waiting() == []


def test_a_server_away_from_the_beginning_gets_everything_later(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", nowhere())
    began = now()
    train()
    ended = now()
    assert capsys.readouterr().out.count("cannot be reached") == 1
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    assert send_spooled() == 1
    check_complete(began, ended)


def test_the_next_phase_sends_the_journal_of_the_one_before(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", nowhere())
    train()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    with phase_run("finetune", PARAMS, DATASET, DATA, STATE) as run:
        run.link_initial_run(MODEL)
    finetune, initial = find_runs()
    assert (finetune.data.tags["phase"], initial.info.status) == ("finetune", "FINISHED")
    assert finetune.data.tags["initial_run_id"] == initial.info.run_id
    assert find_waiting() == []


def test_phases_are_sent_in_the_order_they_ran(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", nowhere())
    for phase in ("train", "finetune", "train"):
        train(phase)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    assert send_spooled() == 3
    assert [run.data.tags["phase"] for run in reversed(find_runs())] == ["train", "finetune", "train"]


def test_sending_twice_is_sending_once(gate: Gate):
    began = now()
    gate.rule = lambda number, method, path: 503 if "artifacts" in path else None
    train()
    ended = now()
    gate.rule = lambda number, method, path: None
    (journal,) = find_waiting()
    shutil.copytree(journal, "kept")
    assert send_spooled() == 1
    shutil.copytree("kept", journal)
    assert send_spooled() == 1
    check_complete(began, ended)


@pytest.mark.parametrize("first", [0, 1, 2, 5, 9])
def test_a_run_is_sent_whole_whichever_request_is_the_first_to_fail(gate: Gate, first: int):
    began = now()
    gate.rule = lambda number, method, path: 503 if number >= first else None
    train()
    ended = now()
    gate.rule = lambda number, method, path: None
    assert send_spooled() == 1
    check_complete(began, ended)


@pytest.mark.parametrize("lost", ["experiments/create", "runs/create", "log-batch", "log-inputs", "runs/update"])
def test_a_request_whose_answer_is_lost_takes_effect_once(gate: Gate, lost: str):
    began = now()
    gate.rule = lambda number, method, path: "lost" if lost in path else None
    train()
    ended = now()
    gate.rule = lambda number, method, path: None
    assert len(find_waiting()) == 1
    send_spooled()
    check_complete(began, ended)


def test_two_processes_that_send_at_once_create_one_run(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", nowhere())
    began = now()
    train()
    ended = now()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    connect()  # the experiment is not what they compete for
    barrier, sent = FORKED.Barrier(2), FORKED.Queue()
    senders = [start(send, barrier, sent) for _ in range(2)]
    assert sorted(sent.get(timeout=120) for _ in senders) == [0, 1]
    for sender in senders:
        sender.join()
    check_complete(began, ended)


@pytest.mark.parametrize(
    "last, killed", [("runs/create", True), ("artifacts", True), ("log-inputs", False), ("runs/update", False)]
)
def test_sending_that_broke_off_is_completed_by_the_next(
    gate: Gate, monkeypatch: pytest.MonkeyPatch, last: str, killed: bool
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", nowhere())
    began = now()
    train()
    ended = now()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", gate.uri)
    gate.rule = lambda number, method, path: "lost" if last in path else None
    if killed:
        sender: list[ForkServerProcess] = []
        gate.lost = lambda: sender[0].kill()
        sender.append(start(send))
        sender[0].join(120)
        assert sender[0].exitcode == -signal.SIGKILL
    else:
        with pytest.raises(UnreachableError):
            send_spooled()
    assert len(find_waiting()) == 1
    gate.rule = lambda number, method, path: None
    assert send_spooled() == 1
    check_complete(began, ended)


def test_a_server_that_dies_while_receiving_gets_the_rest_later(gate: Gate, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", nowhere())
    began = now()
    train()
    ended = now()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", gate.uri)
    gate.rule = lambda number, method, path: 503 if number > 5 else None
    with pytest.raises(UnreachableError, match=f"while sending .*{find_waiting()[0].name}"):
        send_spooled()
    gate.rule = lambda number, method, path: None
    assert send_spooled() == 1
    check_complete(began, ended)


def test_a_phase_that_failed_without_its_server_resumes_in_the_same_run(
    server: Server, monkeypatch: pytest.MonkeyPatch
):
    def fail(epoch: int) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setenv("MLFLOW_TRACKING_URI", nowhere())
    with pytest.raises(KeyboardInterrupt):
        train(before_epoch=fail)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    with phase_run("train", PARAMS, DATASET, DATA, STATE) as run:
        run.log_epoch(2, {"loss": 0.8}, pd.DataFrame())
    assert [point.step for point in points(run.run, "loss")] == [1, 2, 3]
    (found,) = find_runs()
    assert (found.info.run_id, found.info.status, found.data.params["images.val"]) == (
        run.run.info.run_id,
        "FINISHED",
        "3",
    )


@pytest.mark.parametrize("reached", [True, False], ids=["server back", "server still away"])
def test_a_phase_that_was_killed_without_its_server_resumes_in_the_same_run(
    server: Server, monkeypatch: pytest.MonkeyPatch, reached: bool
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", nowhere())
    began = now()
    killed = start(die_in_second_epoch)
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    if reached:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    with phase_run("train", PARAMS, DATASET, DATA, STATE) as phase:
        phase.log_epoch(1, {"loss": 0.9}, pd.DataFrame())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    assert send_spooled() == (0 if reached else 2)
    (run,) = find_runs()
    assert [point.step for point in points(run, "loss")] == [1, 2]
    assert run.info.status == "FINISHED" and began <= run.info.start_time
    assert run.data.params["images.val"] == "3"


def test_a_line_truncated_by_a_full_disk_is_ignored(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", nowhere())
    train()
    (journal,) = find_waiting()
    path = journal / "journal.jsonl"
    path.write_text(path.read_text().removesuffix("\n")[:-3])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    assert send_spooled() == 1
    (run,) = find_runs()
    assert (run.info.status, len(points(run, "duration_seconds"))) == ("RUNNING", 1)


def test_a_run_begun_on_one_server_is_sent_to_no_other(
    gate: Gate, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    began = now()
    gate.rule = lambda number, method, path: 503 if "artifacts" in path else None
    train()
    ended = now()
    gate.rule = lambda number, method, path: None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)  # by another address it counts as another server
    assert send_spooled() == 0
    assert f"the beginning of its run is in {gate.uri}" in capsys.readouterr().out
    monkeypatch.setenv("MLFLOW_TRACKING_URI", gate.uri)
    assert send_spooled() == 1
    check_complete(began, ended)


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_refusal_is_an_error_and_writes_no_journal(gate: Gate, status: int):
    gate.rule = lambda number, method, path: status
    with pytest.raises(InputError, match=rf"refused .* HTTP {status} (.|\n)*Expected: (.|\n)*Remedy: ") as caught:
        train()
    assert not isinstance(caught.value, UnreachableError)
    assert find_waiting() == []


def test_a_journal_that_is_refused_is_named_and_kept(gate: Gate, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", nowhere())
    train()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", gate.uri)
    gate.rule = lambda number, method, path: 403 if "runs/create" in path else None
    (journal,) = find_waiting()
    with pytest.raises(InputError, match=rf"HTTP 403 while sending .*{journal.name}(.|\n)*delete its folder"):
        send_spooled()
    assert find_waiting() == [journal]


def test_a_malformed_address_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:port")
    with pytest.raises(InputError, match="MLFLOW_TRACKING_URI"):
        train()


@pytest.mark.parametrize("call", [connect, lambda: find_run("train", MODEL)], ids=["connect", "find_run"])
def test_outside_a_phase_an_unreachable_server_is_an_error(monkeypatch: pytest.MonkeyPatch, call: Callable[[], object]):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri := nowhere())
    with pytest.raises(
        InputError, match=rf"{uri} cannot be reached while looking .*: .*refused(.|\n)*Expected: (.|\n)*Remedy: "
    ):
        call()


def test_a_phase_with_a_waiting_journal_is_not_recorded_again(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", nowhere())
    train()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    run = restore()
    (found,) = find_runs()
    assert found.info.run_id == run.info.run_id and "restored" not in found.data.tags


def test_an_unreachable_server_is_an_error_for_a_restored_phase(gate: Gate):
    gate.rule = lambda number, method, path: 503 if "log-inputs" in path else None
    with pytest.raises(UnreachableError):
        restore()
    assert not find_spool().exists()


def test_a_refused_connection_is_given_up_within_seconds(monkeypatch: pytest.MonkeyPatch):
    for name in PATIENCE:
        monkeypatch.delenv(f"MLFLOW_HTTP_REQUEST_{name}", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", nowhere())
    started = time.monotonic()
    train()
    assert time.monotonic() - started < 30  # MLflow's own way takes minutes
    for name in PATIENCE:  # what `connect` set
        monkeypatch.delenv(f"MLFLOW_HTTP_REQUEST_{name}")


def test_a_password_in_the_address_is_neither_shown_nor_stored(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", nowhere().replace("//", "//ann:secret@"))
    train()
    assert "secret" not in capsys.readouterr().out
    assert not any(b"secret" in path.read_bytes() for path in find_spool().rglob("*") if path.is_file())
    with pytest.raises(InputError) as caught:
        connect()
    assert "secret" not in str(caught.value)


@pytest.mark.usefixtures("quick")
def test_a_damaged_local_store_does_not_stop_a_training(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    Path("mlruns").mkdir()
    Path("mlruns/mlflow.db").write_text("no database")
    train()
    assert len(find_runs()) == 1 and not find_spool().exists()
    assert Path("mlruns/mlflow.db.damaged").read_text() == "no database"


@pytest.mark.usefixtures("quick")
def test_a_local_store_that_is_held_meanwhile_gets_the_run_later(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setattr("pneumonia.tracking.sqlite_store.WAIT", 0.2)
    Path("dvc.yaml").touch()
    connect()
    began = now()
    with closing(sqlite3.connect("mlruns/mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        train()
        ended = now()
    assert "is held by another program" in capsys.readouterr().out
    assert len(find_waiting()) == 1
    assert send_spooled() == 1
    check_complete(began, ended)


@pytest.mark.usefixtures("quick")
def test_a_journal_for_a_server_is_not_sent_to_a_local_store(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", nowhere())
    train()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    Path("dvc.yaml").touch()
    assert send_spooled() == 0
    assert len(find_waiting()) == 1


def test_a_journal_is_json_lines_and_a_folder_of_artifacts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", nowhere())
    train()
    (journal,) = find_waiting()
    opening, *entries = [json.loads(line) for line in (journal / "journal.jsonl").read_text().splitlines()]
    assert (opening["server"], opening["tags"]["phase"]) == ("", "train")
    assert entries[-1]["end"][0] == "FINISHED"
    assert (journal / "artifacts/range_test/range_test.csv").read_bytes() == write_expected()
