"""`make server` runs MLflow on PostgreSQL; what it was told is there again when it is started again."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import requests
from phases import DATASET, PARAMS, write_range_test
from projects import ROOT, clean_environment, run, set_params

from benchmarks.servers import find_port
from pneumonia.cli.mlflow_server import find_postgres
from pneumonia.core.dataset import write_dataset
from pneumonia.core.errors import InputError
from pneumonia.tracking.connection import connect
from pneumonia.tracking.runs import log_epoch, log_range_test, phase_run, send_spooled, tag_model
from pneumonia.tracking.spool import find_waiting

try:
    find_postgres()
except InputError as error:
    pytest.skip(str(error), allow_module_level=True)

NAME = "trivial"
MODEL = """
import mlflow

class Trivial(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input: list[str]) -> str:
        return open(context.artifacts["weights"]).read()

mlflow.models.set_model(Trivial())
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Return a folder that the user postgres may reach too: what pytest makes is closed to all but its owner."""
    folder = Path(tempfile.mkdtemp(prefix="pneumonia server "))  # with a space, as a project's path may have
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(None)  # pyright: ignore[reportArgumentType]
    yield tmp_path
    mlflow.set_tracking_uri(None)  # pyright: ignore[reportArgumentType]


def start(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Start what `make server` starts and return when it answers."""
    command = ["env", "--default-signal=INT"]  # a shell lets what it starts in the background ignore Ctrl+C
    command += [sys.executable, "-m", "pneumonia.server", "--folder", str(folder), "--port", str(port)]
    with (folder / "said").open("w") as said:
        process = subprocess.Popen(command, cwd=ROOT, env=clean_environment(), stdout=said, stderr=said)
    deadline = time.monotonic() + 180
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if requests.get(f"http://127.0.0.1:{port}/health", timeout=5).ok:
                return process
        except requests.RequestException:
            time.sleep(0.1)
    raise AssertionError((folder / "said").read_text())


def stop(process: subprocess.Popen[bytes], folder: Path, by: signal.Signals) -> None:
    process.send_signal(by)
    assert process.wait(timeout=60) == 0, (folder / "said").read_text()
    assert not (folder / "postgres/postmaster.pid").exists()


def train(rates: pd.DataFrame) -> str:
    with phase_run("train", PARAMS, DATASET, Path("dataset.pkl"), Path("state")) as run:
        log_range_test(Path("range.csv"), "")
        log_epoch(0, {"loss": 0.5, "val_loss": float("nan"), "val_auc": float("inf")}, rates)
        tag_model(Path("weights"))
    return run.info.run_id


def register() -> None:
    Path("trivial_model.py").write_text(MODEL)
    with mlflow.start_run(experiment_id=connect()):
        logged = mlflow.pyfunc.log_model(
            name="model", python_model="trivial_model.py", artifacts={"weights": "weights"}, pip_requirements=["mlflow"]
        )
        mlflow.register_model(logged.model_uri, NAME, tags={"kind": "trivial"})
    mlflow.MlflowClient().set_registered_model_alias(NAME, "champion", "1")


def check(run_id: str) -> None:
    """Assert that the server has the run and the registered model, with their artifacts."""
    client, found = mlflow.MlflowClient(), mlflow.get_run(run_id)
    assert (found.info.status, found.data.params["images.train"]) == ("FINISHED", "6")
    assert found.info.artifact_uri and found.info.artifact_uri.startswith("mlflow-artifacts:")
    assert [(point.step, point.value) for point in client.get_metric_history(run_id, "loss")] == [(1, 0.5)]
    assert len(client.get_metric_history(run_id, "learning_rate")) == 1500
    table = mlflow.artifacts.download_artifacts(f"runs:/{run_id}/range_test/range.csv")
    assert Path(table).read_bytes() == Path("range.csv").read_bytes()
    assert client.get_model_version_by_alias(NAME, "champion").tags == {"kind": "trivial"}
    model = Path(mlflow.artifacts.download_artifacts(f"models:/{NAME}@champion"))
    assert (model / "artifacts/weights").read_bytes() == Path("weights").read_bytes()


@pytest.mark.filterwarnings("ignore:.*type hint:UserWarning")  # of MLflow's own code
def test_runs_and_models_pass_through_it_and_are_there_again_after_a_restart(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    port = find_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    write_dataset(DATASET, Path("dataset.pkl"))
    write_range_test(Path("range.csv"), [1.0] * 10 + [1.0, 0.8, 0.4, 0.2, 0.9])
    Path("weights").write_bytes(os.urandom(100_000))
    rates = pd.DataFrame({"learning_rate": [0.1] * 1500}, range(1, 1501))
    train(rates)  # before there is a server
    (journal,) = find_waiting()
    shutil.copytree(journal, "kept")

    server = start(folder, port)
    try:
        shutil.copytree(journal, f"{journal}-again")  # PostgreSQL keeps equal points once, too
        assert send_spooled() == 2
        (late,) = mlflow.MlflowClient().search_runs([connect()])
        shutil.rmtree("state")
        run_id = train(rates)
        register()
        for known in (late.info.run_id, run_id):
            check(known)
        refused = requests.get(f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search", headers={"Host": "evil"})
        assert refused.status_code == 403
    finally:
        stop(server, folder, signal.SIGINT)  # Ctrl+C
    with pytest.raises(InputError, match="cannot be reached"):
        connect()

    server = start(folder, port)
    try:
        check(run_id)
        command = [sys.executable, "-m", "pneumonia.server", "--folder", str(folder), "--port", str(find_port())]
        second = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True)
        assert second.returncode == 1 and "Expected: " in second.stderr and "Remedy: " in second.stderr
        check(run_id)
    finally:
        stop(server, folder, signal.SIGTERM)


def test_the_database_listens_to_its_owner_only(folder: Path):
    assert (folder / "postgres").stat().st_mode & 0o777 == 0o700
    options = (folder / "postgres/postmaster.opts").read_text()
    assert '"listen_addresses="' in options and '"-k" "."' in options


def test_a_port_that_is_taken_is_an_error_that_names_it(folder: Path):
    port = find_port()
    with subprocess.Popen([sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)], stderr=-3) as other:
        command = [sys.executable, "-m", "pneumonia.server", "--folder", str(folder), "--port", str(port)]
        while True:
            try:
                requests.get(f"http://127.0.0.1:{port}", timeout=5)
                break
            except requests.RequestException:
                time.sleep(0.1)
        done = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True)
        other.kill()
    assert done.returncode == 1 and f"nothing else listens at port {port}" in done.stderr
    assert not (folder / "postgres/postmaster.pid").exists()


def test_without_postgresql_the_package_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("pathlib.Path.glob", lambda self, pattern: iter(()))
    with pytest.raises(InputError, match=r"not installed(.|\n)*Expected: (.|\n)*apt-get install postgresql"):
        find_postgres()


def test_make_server_starts_it():
    assert "python -m pneumonia.server --port 5077" in run("make", "-n", "server", "PORT=5077", cwd=ROOT).stdout


def test_a_pipeline_trains_without_the_server_and_registers_when_it_is_back(folder: Path, finished: Path) -> None:
    port = find_port()
    address = f"http://127.0.0.1:{port}"
    set_params(finished, {"finetune": {"learning_rate": 0.02}})
    away = run("dvc", "repro", cwd=finished, check=False, MLFLOW_TRACKING_URI=address)
    assert re.findall(r"Running stage '(\w+)'", away.stdout) == ["finetune", "evaluate", "report", "register"]
    assert away.returncode and "cannot be reached" in away.stderr and "Traceback" not in away.stderr
    server = start(folder, port)
    try:
        done = run("dvc", "repro", cwd=finished, MLFLOW_TRACKING_URI=address)
        assert re.findall(r"Running stage '(\w+)'", done.stdout) == ["register"]
        assert not list((finished / "mlruns" / "spool").glob("[!.]*"))
        mlflow.set_tracking_uri(address)
        version = mlflow.MlflowClient().get_model_version_by_alias("pneumonia-classifier", "champion")
        assert version.run_id
        trained = mlflow.get_run(version.run_id)
        assert "restored" not in trained.data.tags  # what waited was sent, nothing was made up from files
        assert trained.data.params["finetune.learning_rate"] == "0.02"
        verified = run(
            sys.executable, "-m", "pneumonia", "registry", "verify", cwd=finished, MLFLOW_TRACKING_URI=address
        )
        assert "is what was registered" in verified.stdout
    finally:
        stop(server, folder, signal.SIGINT)
