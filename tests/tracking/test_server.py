"""The commands of docs/server.md run MLflow on PostgreSQL, and what it was told survives a restart."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import requests
import yaml
from phases import DATASET, FIGURE, FOUND, PARAMS, RANGE_TEST
from projects import ROOT, clean_environment, run, set_params

from benchmarks.servers import find_port
from pneumonia.core.dataset import write_dataset
from pneumonia.core.tables import write_table
from pneumonia.tracking.connection import connect
from pneumonia.tracking.failures import UnreachableError
from pneumonia.tracking.phase_run import phase_run
from pneumonia.tracking.spool import find_waiting, send_spooled

PREPARE, START, STOP, *_ = [
    block
    for block in re.findall(r"```sh\n(.*?)```", (ROOT / "docs/server.md").read_text(), re.DOTALL)
    if re.search("initdb|pg_ctl", block)
]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
NAME = "trivial"
MODEL = """
import mlflow

class Trivial(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input: list[str]) -> str:
        return open(context.artifacts["weights"]).read()

mlflow.models.set_model(Trivial())
"""


class Server:
    """PostgreSQL and MLflow, started and stopped by the commands of docs/server.md."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, find_port()
        self.uri, self.data = f"http://127.0.0.1:{self.port}", folder / "mlruns" / "server" / "postgres"
        (folder / ".venv").symlink_to(ROOT / ".venv")
        if os.geteuid() == 0:
            self.data.mkdir(parents=True)
            shutil.chown(self.data, "postgres")
        self.exports, commands = "\n".join(re.findall("^export .*", PREPARE, re.MULTILINE)), PREPARE
        self._run(commands)

    def _adapt(self, commands: str) -> str:
        """Choose another port, and another user than root, as the page tells to."""
        commands = commands.replace("=5000", f"={self.port}").replace(":5000", f":{self.port}")
        user = "runuser -u postgres -- " if os.geteuid() == 0 else ""
        return re.sub("^(initdb|pg_ctl)", rf"{user}\1", commands, flags=re.MULTILINE)

    def _start_shell(self, commands: str) -> subprocess.Popen[str]:
        # A shell in the background ignores Ctrl+C for what it starts.
        script = f"set -e\n{self.exports}\n{self._adapt(commands)}"
        with (self.folder / "log").open("a") as log:
            return subprocess.Popen(
                ["env", "--default-signal=INT", "bash", "-c", script], cwd=self.folder, env=clean_environment(),
                stdout=log, stderr=log, text=True, start_new_session=True,
            )  # fmt: skip

    def _run(self, commands: str) -> None:
        assert self._start_shell(commands).wait(timeout=120) == 0, (self.folder / "log").read_text()

    def start(self) -> None:
        self.process = self._start_shell(START)
        deadline = time.monotonic() + 180
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                if requests.get(f"{self.uri}/health", timeout=5).ok:
                    return
            except requests.RequestException:
                time.sleep(0.1)
        raise AssertionError((self.folder / "log").read_text())

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGINT)  # Ctrl+C
        self.process.wait(timeout=60)
        self._run(STOP)
        assert not (self.data / "postmaster.pid").exists()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Run a server in a folder that the user postgres can reach; only their owner can enter those of pytest."""
    folder = Path(tempfile.mkdtemp(prefix="tracking server "))  # with a space, as a project's path may have
    folder.chmod(0o755)
    server = Server(folder)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def project(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(None)  # pyright: ignore[reportArgumentType]
    yield tmp_path
    mlflow.set_tracking_uri(None)  # pyright: ignore[reportArgumentType]


def train(rates: pd.DataFrame) -> str:
    with phase_run("train", PARAMS, DATASET, Path("dataset.pkl"), Path("state")) as phase:
        phase.log_range_test(RANGE_TEST, FOUND, FIGURE)
        phase.log_epoch(0, {"loss": 0.5, "val_loss": float("nan"), "val_auc": float("inf")}, rates)
        phase.tag_model(Path("weights"))
    shutil.rmtree("state")
    return phase.run.info.run_id


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
    table = mlflow.artifacts.download_artifacts(f"runs:/{run_id}/range_test/range_test.csv")
    assert Path(table).read_bytes() == Path("expected.csv").read_bytes()
    assert client.get_model_version_by_alias(NAME, "champion").tags == {"kind": "trivial"}
    model = Path(mlflow.artifacts.download_artifacts(f"models:/{NAME}@champion"))
    assert (model / "artifacts/weights").read_bytes() == Path("weights").read_bytes()


@pytest.mark.filterwarnings("ignore:.*type hint:UserWarning")  # of MLflow's own code
def test_runs_and_models_pass_through_the_server_and_survive_a_restart(server: Server):
    write_dataset(DATASET, Path("dataset.pkl"))
    write_table(RANGE_TEST, Path("expected.csv"))
    Path("weights").write_bytes(os.urandom(100_000))
    rates = pd.DataFrame({"learning_rate": [0.1] * 1500}, range(1, 1501))
    known = train(rates)
    register()
    server.stop()
    train(rates)
    with pytest.raises(UnreachableError):
        connect()
    (journal,) = find_waiting()
    shutil.copytree(journal, f"{journal}-again")  # PostgreSQL keeps equal points once, too

    server.start()
    assert send_spooled() == 2
    found = mlflow.MlflowClient().search_runs([connect()], "tags.phase = 'train'")
    late, first = (run.info.run_id for run in found)
    assert first == known
    for run_id in (first, late):
        check(run_id)


def test_the_server_answers_only_to_its_own_name(server: Server):
    address = f"{server.uri}/api/2.0/mlflow/experiments/search"
    assert requests.get(address, headers={"Host": "evil"}, timeout=30).status_code == 403


def test_the_database_is_open_to_its_owner_only(server: Server):
    assert server.data.stat().st_mode & 0o777 == 0o700
    options = (server.data / "postmaster.opts").read_text()
    assert '"listen_addresses="' in options and '"-k" "."' in options


def test_a_pipeline_trains_while_the_server_is_away_and_registers_when_it_is_back(server: Server, finished: Path):
    set_params(finished, {"finetune": {"learning_rate": 0.02}})
    nowhere = f"http://127.0.0.1:{find_port()}"
    away = run("dvc", "repro", cwd=finished, check=False, MLFLOW_TRACKING_URI=nowhere)
    assert re.findall(r"Running stage '(\w+)'", away.stdout) == ["finetune", "evaluate", "report", "register"]
    assert away.returncode and "cannot be reached" in away.stderr and "Traceback" not in away.stderr
    done = run("dvc", "repro", cwd=finished, MLFLOW_TRACKING_URI=server.uri)
    assert re.findall(r"Running stage '(\w+)'", done.stdout) == ["register"]
    assert not list((finished / "mlruns" / "spool").glob("[!.]*"))
    mlflow.set_tracking_uri(server.uri)
    version = mlflow.MlflowClient().get_model_version_by_alias("pneumonia-classifier", "champion")
    assert version.run_id
    trained = mlflow.get_run(version.run_id)
    assert "restored" not in trained.data.tags  # its journal was sent, no run was made from files
    assert trained.data.params["finetune.learning_rate"] == "0.02"
    verified = run("python", "-m", "pneumonia", "registry", "verify", cwd=finished, MLFLOW_TRACKING_URI=server.uri)
    assert "is what was registered" in verified.stdout


def test_compose_yaml_follows_the_compose_specification():
    run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml", cwd=ROOT)


def test_compose_starts_the_same_mlflow_server_as_the_plain_commands():
    plain = shlex.split(re.search(r"^mlflow server.*", START.replace("\\\n", ""), re.MULTILINE)[0])  # pyright: ignore
    names = [[word.partition("=")[0] for word in command[2:]] for command in (plain, COMPOSE["mlflow"]["command"])]
    assert sorted(names[0]) == sorted(names[1])
    exported = dict(word.split("=") for word in re.findall(r"\b[A-Z_]+=(?:true|false)", START))
    assert exported == COMPOSE["mlflow"]["environment"]


def test_compose_pins_the_mlflow_of_the_requirements_and_publishes_to_this_machine_only():
    (version,) = re.findall(r"^mlflow==([\d.]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert COMPOSE["mlflow"]["image"] == f"ghcr.io/mlflow/mlflow:v{version}-full"
    assert re.fullmatch(r"postgres:\d+\.\d+-\w+", COMPOSE["postgres"]["image"])
    assert all(port.startswith("127.0.0.1:") for port in COMPOSE["mlflow"]["ports"])
    assert "ports" not in COMPOSE["postgres"]
    assert all("healthcheck" in service for service in COMPOSE.values())
