"""Every training phase is one run in a real MLflow store, wherever it ran and however often it was interrupted."""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from importlib.metadata import version
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.entities import Run
from phases import DATASET, FIGURE, FOUND, PARAMS, RANGE_TEST, write_range_test
from processes import FORKED
from stores import working_in

from pneumonia.core.dataset import write_dataset
from pneumonia.core.files import sha256_file
from pneumonia.core.params import Params
from pneumonia.core.tables import write_table
from pneumonia.tracking.connection import connect
from pneumonia.tracking.phase_run import PhaseRun, ensure_run, phase_run
from pneumonia.training.listener import replay_files

REAL = PARAMS.model_copy(update={"data": PARAMS.data.model_copy(update={"source": "kaggle"})})
DATA, MODEL, STATE, HISTORY = Path("dataset.pkl"), Path("model.keras"), Path("state"), Path("history.csv")
RANGE = Path("train_range.csv")
RATES = pd.DataFrame({"learning_rate": [0.01]}, [1])


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in a project with a store of its own."""
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    with working_in(tmp_path):
        write_dataset(DATASET, DATA)
        MODEL.write_bytes(b"a model")
        HISTORY.write_text("epoch,loss,val_loss,learning_rate\n1,0.7,0.8,0.01\n2,0.5,0.6,0.005\n")
        write_range_test(RANGE)
        yield tmp_path


def restore(phase: str = "train") -> Run:
    """Record a phase that DVC restored, and return its run as the store has it."""
    replay = partial(replay_files, HISTORY, RANGE)
    return mlflow.get_run(ensure_run(phase, PARAMS, DATA, MODEL, replay).info.run_id)


def open_phase(state: Path = STATE) -> AbstractContextManager[PhaseRun]:
    return phase_run("train", PARAMS, DATASET, DATA, state)


def train(params: Params = PARAMS, phase: str = "train", epochs: int = 1, state: Path = STATE) -> Run:
    """Record a phase that made MODEL, and return its run as the store has it."""
    with phase_run(phase, params, DATASET, DATA, state) as run:
        for epoch in range(epochs):
            run.log_epoch(epoch, {"loss": 1.0 - epoch / 10}, RATES)
        run.tag_model(MODEL)
    return mlflow.get_run(run.run.info.run_id)


def count_runs() -> int:
    return len(mlflow.search_runs([connect()], output_format="list"))


def steps(run: Run | PhaseRun, metric: str) -> list[tuple[int, float]]:
    run = run.run if isinstance(run, PhaseRun) else run
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, metric)
    return [(entry.step, entry.value) for entry in history]


def test_runs_and_artifacts_lie_below_mlruns_of_the_project(project: Path):
    run = train()
    assert mlflow.get_tracking_uri() == f"sqlite:///{project}/mlruns/mlflow.db"
    assert run.info.artifact_uri == f"mlruns/artifacts/{run.info.run_id}/artifacts"


def test_mlflow_tracking_uri_leads_to_another_store(project: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.copy("mlruns/mlflow.db", "other.db")
    mlflow.set_tracking_uri(None)  # pyright: ignore[reportArgumentType]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/other.db")
    run = train()
    assert mlflow.MlflowClient(f"sqlite:///{project}/other.db").get_run(run.info.run_id)
    assert mlflow.MlflowClient(f"sqlite:///{project}/mlruns/mlflow.db").search_runs([run.info.experiment_id]) == []


def test_a_run_carries_every_parameter_under_its_dotted_name():
    params = train().data.params
    assert params.items() >= {name: str(value) for name, value in PARAMS.flat().items()}.items()


def test_a_run_identifies_its_data_and_counts_the_images():
    run = train()
    digest = sha256_file(DATA)
    assert run.data.tags["dataset_sha256"] == digest
    assert [run.data.params[f"images.{split}"] for split in ("train", "val", "test")] == ["6", "3", "2"]
    assert run.inputs
    profiles = [json.loads(i.dataset.profile or "")["features_shape"][0] for i in run.inputs.dataset_inputs]
    assert sorted(profiles) == [2, 3, 6]
    inputs = {i.tags[0].value: (i.dataset.name, i.dataset.digest) for i in run.inputs.dataset_inputs}
    assert inputs == {split: (f"phantom {split}", digest[:32]) for split in ("train", "val", "test")}


def test_a_run_is_named_after_its_dvc_experiment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DVC_EXP_NAME", "bold-lung")
    run = train()
    assert (run.info.run_name, run.data.tags["dvc_exp_name"]) == ("bold-lung train", "bold-lung")


def test_without_a_dvc_experiment_a_run_is_named_after_the_recipe():
    run = train()
    assert run.info.run_name == f"{PARAMS.recipe} train"
    assert "dvc_exp_name" not in run.data.tags


def test_a_run_records_library_versions():
    tags = train().data.tags
    assert (tags["version.keras"], tags["version.pillow"]) == (version("keras"), version("pillow"))
    assert tags["version.tensorflow"].startswith("2.")


@pytest.mark.parametrize("params, note", [(PARAMS, PARAMS.data.notice), (REAL, None)], ids=["synthetic", "real"])
def test_a_run_on_synthetic_images_says_so(params: Params, note: str | None):
    assert train(params).data.tags.get("mlflow.note.content") == note


def test_system_metrics_and_duration_are_recorded_and_continue_when_a_run_resumes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pneumonia.tracking.phase_run.SAMPLING", 0.3)
    for sampled in (1, 2):
        with open_phase() as run:
            deadline = time.monotonic() + 90
            while len(steps(run, "system/cpu_utilization_percentage")) < sampled and time.monotonic() < deadline:
                time.sleep(0.05)
        assert len(steps(run, "system/cpu_utilization_percentage")) >= sampled
        assert steps(run, "duration_seconds")[-1][1] >= 0.2


def test_the_metrics_of_an_epoch_are_visible_while_the_next_one_trains():
    with open_phase() as run:
        for epoch, loss in enumerate([0.9, 0.7]):
            run.log_epoch(epoch, {"loss": loss}, RATES)
            assert steps(run, "loss")[-1] == (epoch + 1, loss)
            assert mlflow.get_run(run.run.info.run_id).info.status == "RUNNING"


def test_learning_rate_and_momentum_are_logged_at_the_optimisers_step():
    rates = pd.DataFrame({"learning_rate": [0.1, 0.2], "momentum": [0.9, 0.8]}, [7, 8])
    with open_phase() as run:
        run.log_epoch(3, {"loss": 0.5, "learning_rate": 0.2}, rates)
    assert steps(run, "learning_rate") == [(7, 0.1), (8, 0.2)]
    assert steps(run, "momentum") == [(7, 0.9), (8, 0.8)]
    assert steps(run, "loss") == [(4, 0.5)]


def test_an_epoch_with_more_steps_than_fit_a_request_is_sent_whole():
    rates = pd.DataFrame({"learning_rate": np.linspace(0.1, 0.2, 1500)}, range(1, 1501))
    with open_phase() as run:
        run.log_epoch(0, {"loss": 0.5}, rates)
    assert [step for step, _ in steps(run, "learning_rate")] == list(range(1, 1501))


def test_a_range_test_is_recorded_with_its_table_its_figure_and_the_rate_it_found():
    with open_phase() as run:
        run.log_range_test(RANGE_TEST, FOUND, FIGURE)
    run_id = run.run.info.run_id
    artifacts = mlflow.MlflowClient().list_artifacts(run_id, "range_test")
    assert [artifact.path for artifact in artifacts] == ["range_test/range_test.csv", "range_test/range_test.png"]
    write_table(RANGE_TEST, Path("expected.csv"))
    stored = Path(mlflow.artifacts.download_artifacts(f"runs:/{run_id}/range_test/range_test.csv"))
    assert stored.read_bytes() == Path("expected.csv").read_bytes()
    assert steps(run, "found_learning_rate") == [(0, pytest.approx(FOUND))]


def test_the_best_epoch_is_recorded_under_names_of_its_own():
    with open_phase() as run:
        run.log_best({"val_loss": 0.6, "epoch": 2})
    assert steps(run, "best_val_loss") == [(0, 0.6)]
    assert steps(run, "best_epoch") == [(0, 2)]


def test_a_phase_that_failed_resumes_in_the_same_run():
    with pytest.raises(KeyboardInterrupt), open_phase() as run:
        run.log_epoch(0, {"loss": 0.9}, RATES)
        raise KeyboardInterrupt
    run_id = run.run.info.run_id
    assert mlflow.get_run(run_id).info.status in ("FAILED", "KILLED")
    with open_phase() as resumed:
        resumed.log_epoch(1, {"loss": 0.8}, RATES)
    assert resumed.run.info.run_id == run_id
    assert steps(resumed, "loss") == [(1, 0.9), (2, 0.8)]
    assert mlflow.get_run(run_id).info.status == "FINISHED"


def die_in_an_epoch(project: Path) -> None:
    os.chdir(project)
    with open_phase() as run:
        run.log_epoch(0, {"loss": 0.9}, RATES)
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_phase_that_was_killed_resumes_in_the_same_run(project: Path):
    killed = FORKED.Process(target=die_in_an_epoch, args=(project,))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    run = train(epochs=2)
    assert steps(run, "loss") == [(1, 0.9), (1, 1.0), (2, 0.9)]
    assert (count_runs(), run.info.status) == (1, "FINISHED")


def test_another_training_state_is_another_run():
    assert train(state=Path("one")).info.run_id != train(state=Path("two")).info.run_id


def test_a_phase_whose_run_was_deleted_starts_a_new_one():
    deleted = train()
    mlflow.delete_run(deleted.info.run_id)
    assert train().info.run_id != deleted.info.run_id


def test_a_restored_phase_is_recorded_from_its_files_once():
    run = restore()
    assert (restore().info.run_id, count_runs()) == (run.info.run_id, 1)
    assert (run.data.tags["restored"], run.info.status) == ("True", "FINISHED")
    assert run.data.params["images.train"] == "6"
    assert steps(run, "val_loss") == [(1, 0.8), (2, 0.6)]
    assert steps(run, "learning_rate") == [(1, 0.01), (2, 0.005)]  # a batch holds all six images
    assert (steps(run, "best_val_loss"), steps(run, "best_epoch")) == ([(0, 0.6)], [(0, 2)])
    assert steps(run, "found_learning_rate") == []


def test_each_dvc_experiment_has_its_own_fine_tune_run_even_for_the_same_model(monkeypatch: pytest.MonkeyPatch):
    found: list[str] = []
    for name in ("one", "two", "one"):
        monkeypatch.setenv("DVC_EXP_NAME", name)
        found.append(restore("finetune").info.run_id)
        restore("train")
    assert found[0] == found[2] != found[1]
    assert count_runs() == 3  # the initial model's run is shared


def test_a_restored_phase_keeps_its_range_test():
    write_range_test(RANGE, RANGE_TEST)
    run = restore()
    assert len(mlflow.MlflowClient().list_artifacts(run.info.run_id, "range_test")) == 2
    assert steps(run, "found_learning_rate") == [(0, pytest.approx(FOUND))]


def test_a_phase_that_ran_here_is_not_recorded_again():
    run = train()
    assert restore().info.run_id == run.info.run_id
    assert "restored" not in run.data.tags
