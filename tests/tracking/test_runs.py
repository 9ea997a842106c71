"""Every training phase is one run in a real MLflow store, whoever executed it and however often it was killed."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.entities import Run
from phases import DATASET, PARAMS, write_range_test
from projects import ROOT

from pneumonia.core.dataset import write_dataset
from pneumonia.core.files import sha256_file
from pneumonia.core.params import Params
from pneumonia.tracking.connection import connect
from pneumonia.tracking.provenance import describe_code
from pneumonia.tracking.runs import (
    ensure_run,
    find_run,
    link_initial_run,
    log_epoch,
    log_range_test,
    phase_run,
    record_evaluation,
    tag_model,
)

REAL = PARAMS.model_copy(update={"data": PARAMS.data.model_copy(update={"source": "kaggle"})})
DATA, MODEL, STATE, HISTORY = Path("dataset.pkl"), Path("model.keras"), Path("state"), Path("history.csv")
RANGE = Path("train_range.csv")
RATES = pd.DataFrame({"learning_rate": [0.01]}, [1])


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with all tables and no run: MLflow takes a second to create one."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(autouse=True)
def project(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in a project with a store of its own and nothing that leads to another."""
    for name in ("MLFLOW_TRACKING_URI", "DVC_EXP_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlruns").mkdir()
    shutil.copy(empty_store, tmp_path / "mlruns")
    write_dataset(DATASET, DATA)
    MODEL.write_bytes(b"a model")
    HISTORY.write_text("epoch,loss,val_loss,learning_rate\n1,0.7,0.8,0.01\n2,0.5,0.6,0.005\n")
    write_range_test(RANGE)
    yield tmp_path
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.set_tracking_uri(None)  # pyright: ignore[reportArgumentType]


def train(params: Params = PARAMS, phase: str = "train", epochs: int = 1, state: Path = STATE) -> Run:
    """Record a phase that made MODEL, and return its run as the store has it."""
    with phase_run(phase, params, DATASET, DATA, state) as run:
        for epoch in range(epochs):
            log_epoch(epoch, {"loss": 1.0 - epoch / 10}, RATES)
        tag_model(MODEL)
    return mlflow.get_run(run.info.run_id)


def count_runs() -> int:
    return len(mlflow.search_runs([connect()], output_format="list"))


def steps(run: Run, metric: str) -> list[tuple[int, float]]:
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, metric)
    return [(entry.step, entry.value) for entry in history]


def git(*arguments: str) -> str:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_runs_and_artifacts_lie_below_mlruns_of_the_project(project: Path):
    run = train()
    assert mlflow.get_tracking_uri() == f"sqlite:///{project}/mlruns/mlflow.db"
    assert run.info.artifact_uri and run.info.artifact_uri.startswith((project / "mlruns/artifacts").as_uri())


def test_mlflow_tracking_uri_leads_to_another_store(project: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path):
    shutil.copy(empty_store, "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/other.db")
    run = train()
    assert mlflow.MlflowClient(f"sqlite:///{project}/other.db").get_run(run.info.run_id)
    assert not mlflow.MlflowClient(f"sqlite:///{project}/mlruns/mlflow.db").get_experiment_by_name("pneumonia")


def test_a_run_carries_every_parameter_under_its_dotted_name():
    params = train().data.params
    assert params.items() >= {name: str(value) for name, value in PARAMS.flat().items()}.items()


def test_a_run_names_the_data_it_saw_and_counts_its_images():
    run = train()
    digest = sha256_file(DATA)
    assert run.data.tags["dataset_sha256"] == digest
    assert [run.data.params[f"images.{split}"] for split in ("train", "val", "test")] == ["6", "3", "2"]
    assert run.inputs
    profiles = [json.loads(i.dataset.profile or "")["features_shape"][0] for i in run.inputs.dataset_inputs]
    assert sorted(profiles) == [2, 3, 6]
    inputs = {i.tags[0].value: (i.dataset.name, i.dataset.digest) for i in run.inputs.dataset_inputs}
    assert inputs == {split: (f"phantom {split}", digest[:32]) for split in ("train", "val", "test")}


def test_a_run_names_the_commit_and_whether_files_differ_from_it():
    git("init", "-q")
    git("add", "history.csv")
    git("commit", "-qm", "one")
    clean = train(state=Path("one")).data.tags
    HISTORY.write_text("changed")
    dirty = train(state=Path("two")).data.tags
    assert clean["git_commit"] == dirty["git_commit"] == git("rev-parse", "HEAD")
    assert (clean["git_dirty"], dirty["git_dirty"]) == ("False", "True")


def test_outside_git_there_is_no_commit():
    assert describe_code()["git_commit"] == "none"


def test_an_experiment_of_dvc_gives_the_run_its_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DVC_EXP_NAME", "bold-lung")
    run = train()
    assert (run.info.run_name, run.data.tags["dvc_exp_name"]) == ("bold-lung train", "bold-lung")


def test_without_an_experiment_of_dvc_the_recipe_does():
    run = train()
    assert run.info.run_name == f"{PARAMS.recipe} train"
    assert "dvc_exp_name" not in run.data.tags


def test_a_run_names_the_versions_of_libraries():
    tags = train().data.tags
    assert (tags["version.keras"], tags["version.pillow"]) == (version("keras"), version("pillow"))
    assert tags["version.tensorflow"].startswith("2.")


@pytest.mark.parametrize("params, note", [(PARAMS, PARAMS.data.notice), (REAL, None)], ids=["synthetic", "real"])
def test_a_run_on_synthetic_images_says_so(params: Params, note: str | None):
    assert train(params).data.tags.get("mlflow.note.content") == note


def test_system_metrics_and_duration_are_recorded_also_when_a_run_goes_on():
    for sampled in (1, 2):
        with phase_run("train", PARAMS, DATASET, DATA, STATE) as run:
            deadline = time.monotonic() + 90
            while len(steps(run, "system/cpu_utilization_percentage")) < sampled and time.monotonic() < deadline:
                time.sleep(0.1)
        assert len(steps(run, "system/cpu_utilization_percentage")) >= sampled
        assert steps(run, "duration_seconds")[-1][1] >= 1.5


def test_metrics_of_an_epoch_can_be_seen_while_the_next_one_is_trained():
    with phase_run("train", PARAMS, DATASET, DATA, STATE) as run:
        for epoch, loss in enumerate([0.9, 0.7]):
            log_epoch(epoch, {"loss": loss}, RATES)
            assert steps(run, "loss")[-1] == (epoch + 1, loss)
            assert mlflow.get_run(run.info.run_id).info.status == "RUNNING"


def test_learning_rate_and_momentum_stand_under_the_step_of_the_optimiser():
    rates = pd.DataFrame({"learning_rate": [0.1, 0.2], "momentum": [0.9, 0.8]}, [7, 8])
    with phase_run("train", PARAMS, DATASET, DATA, STATE) as run:
        log_epoch(3, {"loss": 0.5, "learning_rate": 0.2}, rates)
    assert steps(run, "learning_rate") == [(7, 0.1), (8, 0.2)]
    assert steps(run, "momentum") == [(7, 0.9), (8, 0.8)]
    assert steps(run, "loss") == [(4, 0.5)]


def test_an_epoch_of_more_steps_than_mlflow_takes_at_once_is_sent_whole():
    rates = pd.DataFrame({"learning_rate": np.linspace(0.1, 0.2, 1500)}, range(1, 1501))
    with phase_run("train", PARAMS, DATASET, DATA, STATE) as run:
        log_epoch(0, {"loss": 0.5}, rates)
    assert [step for step, _ in steps(run, "learning_rate")] == list(range(1, 1501))


def test_a_range_test_is_recorded_with_its_table_its_figure_and_what_it_found():
    write_range_test(RANGE, [1.0] * 10 + [1.0, 0.8, 0.4, 0.2, 0.9])
    with phase_run("train", PARAMS, DATASET, DATA, STATE) as run:
        log_range_test(RANGE, "no clinical meaning")
    artifacts = mlflow.MlflowClient().list_artifacts(run.info.run_id, "range_test")
    assert [artifact.path for artifact in artifacts] == ["range_test/range_test.png", "range_test/train_range.csv"]
    assert steps(run, "found_learning_rate") == [(0, pytest.approx(1e4))]


def test_without_a_range_test_none_is_recorded():
    with phase_run("train", PARAMS, DATASET, DATA, STATE) as run:
        log_range_test(RANGE, "")
    assert steps(run, "found_learning_rate") == []


def test_a_phase_that_failed_goes_on_in_the_same_run():
    with pytest.raises(KeyboardInterrupt), phase_run("train", PARAMS, DATASET, DATA, STATE) as run:
        log_epoch(0, {"loss": 0.9}, RATES)
        raise KeyboardInterrupt
    assert mlflow.get_run(run.info.run_id).info.status in ("FAILED", "KILLED")
    with phase_run("train", PARAMS, DATASET, DATA, STATE) as resumed:
        log_epoch(1, {"loss": 0.8}, RATES)
    assert resumed.info.run_id == run.info.run_id
    assert steps(resumed, "loss") == [(1, 0.9), (2, 0.8)]
    assert mlflow.get_run(run.info.run_id).info.status == "FINISHED"


def test_a_phase_that_was_killed_goes_on_in_the_same_run():
    code = f"import sys; sys.path[:0] = {[str(ROOT), str(ROOT / 'tests')]}\n"
    code += "from test_tracking import *\nimport os\n"
    code += "with phase_run('train', PARAMS, DATASET, DATA, STATE):\n"
    code += "    log_epoch(0, {'loss': 0.9}, RATES); os.kill(os.getpid(), signal.SIGKILL)"
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    run = train(epochs=2)
    assert steps(run, "loss") == [(1, 0.9), (1, 1.0), (2, 0.9)]
    assert (count_runs(), run.info.status) == (1, "FINISHED")


def test_another_training_state_is_another_run():
    assert train(state=Path("one")).info.run_id != train(state=Path("two")).info.run_id


def test_a_phase_whose_run_was_deleted_gets_a_new_one():
    deleted = train()
    mlflow.delete_run(deleted.info.run_id)
    assert train().info.run_id != deleted.info.run_id


def test_a_run_is_found_by_phase_and_content_of_the_model_it_made():
    run = train()
    shutil.copy(MODEL, "copy.keras")
    found = find_run("train", Path("copy.keras"))
    assert found and found.info.run_id == run.info.run_id
    assert find_run("finetune", MODEL) is None
    MODEL.write_bytes(b"another model")
    assert find_run("train", MODEL) is None


def test_a_restored_phase_is_recorded_from_its_files_once():
    first = ensure_run("train", PARAMS, DATA, MODEL, HISTORY, RANGE)
    second = ensure_run("train", PARAMS, DATA, MODEL, HISTORY, RANGE)
    assert (first.info.run_id, count_runs()) == (second.info.run_id, 1)
    run = mlflow.get_run(first.info.run_id)
    assert (run.data.tags["restored"], run.info.status) == ("True", "FINISHED")
    assert run.data.params["images.train"] == "6"
    assert steps(run, "val_loss") == [(1, 0.8), (2, 0.6)]
    assert steps(run, "learning_rate") == [(1, 0.01), (2, 0.005)]  # a batch holds all six images


def test_a_restored_phase_says_what_its_kept_epoch_reached():
    run = ensure_run("train", PARAMS, DATA, MODEL, HISTORY, RANGE)
    assert steps(run, "best_val_loss") == [(0, 0.6)]
    assert steps(run, "best_epoch") == [(0, 2)]


def test_each_experiment_of_dvc_has_a_fine_tune_run_of_its_own_though_models_are_the_same(
    monkeypatch: pytest.MonkeyPatch,
):
    found: list[str] = []
    for name in ("one", "two", "one"):
        monkeypatch.setenv("DVC_EXP_NAME", name)
        found.append(ensure_run("finetune", PARAMS, DATA, MODEL, HISTORY, RANGE).info.run_id)
        ensure_run("train", PARAMS, DATA, MODEL, HISTORY, RANGE)
    assert found[0] == found[2] != found[1]
    assert count_runs() == 3  # the initial model's run is shared


def test_a_restored_phase_keeps_its_range_test():
    write_range_test(RANGE, [1.0] * 10 + [1.0, 0.8, 0.4, 0.2, 0.9])
    run = ensure_run("train", PARAMS, DATA, MODEL, HISTORY, RANGE)
    assert len(mlflow.MlflowClient().list_artifacts(run.info.run_id, "range_test")) == 2
    assert steps(run, "found_learning_rate") == [(0, pytest.approx(1e4))]


def test_a_phase_that_was_executed_here_is_not_recorded_again():
    run = train()
    assert ensure_run("train", PARAMS, DATA, MODEL, HISTORY, RANGE).info.run_id == run.info.run_id
    assert "restored" not in run.data.tags


def test_an_evaluation_is_recorded_once_with_its_figures():
    run = train()
    Path("roc.png").write_bytes(b"figure")
    for _ in range(2):
        record_evaluation(run, {"roc_auc": 0.9, "true_positives": 7}, [Path("roc.png")])
    assert (steps(run, "test_roc_auc"), steps(run, "test_true_positives")) == ([(0, 0.9)], [(0, 7.0)])
    artifacts = mlflow.MlflowClient().list_artifacts(run.info.run_id, "figures")
    assert [artifact.path for artifact in artifacts] == ["figures/roc.png"]
    assert mlflow.get_run(run.info.run_id).info.status == "FINISHED"


def test_a_changed_figure_is_recorded_though_the_metrics_are_the_same():
    run = train()
    for content in (b"figure", b"another"):
        Path("roc.png").write_bytes(content)
        record_evaluation(run, {"roc_auc": 0.9}, [Path("roc.png")])
    stored = mlflow.artifacts.download_artifacts(f"runs:/{run.info.run_id}/figures/roc.png")
    assert Path(stored).read_bytes() == b"another"


def test_another_evaluation_takes_the_place_of_the_first():
    run = train()
    for value in (0.9, 0.8):
        record_evaluation(run, {"roc_auc": value}, [])
    assert mlflow.get_run(run.info.run_id).data.metrics["test_roc_auc"] == 0.8


def test_fine_tuning_names_the_run_that_made_its_initial_model():
    initial, finetuned = train(), train(phase="finetune", state=Path("other"))
    link_initial_run(finetuned, MODEL)
    assert mlflow.get_run(finetuned.info.run_id).data.tags["initial_run_id"] == initial.info.run_id


def test_fine_tuning_of_a_model_without_a_run_names_none():
    finetuned = train(phase="finetune")
    link_initial_run(finetuned, MODEL)
    assert "initial_run_id" not in mlflow.get_run(finetuned.info.run_id).data.tags
