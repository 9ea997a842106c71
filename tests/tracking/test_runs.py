"""Runs are found by the model they made; evaluations are added to them once."""

from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Run
from stores import working_in

from pneumonia.core.files import sha256_file
from pneumonia.tracking.connection import connect
from pneumonia.tracking.runs import find_run, link_initial_run, record_evaluation

MODEL = Path("model.keras")


@pytest.fixture(autouse=True)
def project(tmp_path: Path) -> Iterator[Path]:
    with working_in(tmp_path):
        MODEL.write_bytes(b"a model")
        yield tmp_path


def make_run(phase: str = "train", **tags: str) -> Run:
    """Make a finished run of a phase that wrote MODEL."""
    client = mlflow.MlflowClient()
    run = client.create_run(connect(), tags={"phase": phase, "model_sha256": sha256_file(MODEL), **tags})
    client.set_terminated(run.info.run_id)
    return run


def read_metric(run: Run, name: str) -> list[float]:
    return [point.value for point in mlflow.MlflowClient().get_metric_history(run.info.run_id, name)]


def find_id(phase: str, model: Path = MODEL, experiment: str | None = None) -> str | None:
    found = find_run(phase, model, experiment)
    return found.info.run_id if found else None


def test_a_run_is_found_by_phase_and_content_of_the_model_it_made():
    run = make_run()
    Path("copy.keras").write_bytes(b"a model")
    assert find_id("train", Path("copy.keras")) == run.info.run_id
    assert find_id("finetune") is None
    MODEL.write_bytes(b"another model")
    assert find_id("train") is None


def test_a_run_is_found_within_a_dvc_experiment():
    one, two = make_run(dvc_exp_name="one"), make_run(dvc_exp_name="two")
    assert [find_id("train", experiment=name) for name in ("one", "two", "three")] == [
        one.info.run_id,
        two.info.run_id,
        None,
    ]


def test_an_evaluation_is_recorded_once_with_its_figures():
    run = make_run()
    Path("roc.png").write_bytes(b"figure")
    for _ in range(2):
        record_evaluation(run, {"roc_auc": 0.9, "true_positives": 7}, [Path("roc.png")])
    assert (read_metric(run, "test_roc_auc"), read_metric(run, "test_true_positives")) == ([0.9], [7.0])
    artifacts = mlflow.MlflowClient().list_artifacts(run.info.run_id, "figures")
    assert [artifact.path for artifact in artifacts] == ["figures/roc.png"]
    assert mlflow.get_run(run.info.run_id).info.status == "FINISHED"


def test_a_changed_figure_is_recorded_though_the_metrics_are_the_same():
    run = make_run()
    for content in (b"figure", b"another"):
        Path("roc.png").write_bytes(content)
        record_evaluation(run, {"roc_auc": 0.9}, [Path("roc.png")])
    stored = mlflow.artifacts.download_artifacts(f"runs:/{run.info.run_id}/figures/roc.png")
    assert Path(stored).read_bytes() == b"another"


def test_a_new_evaluation_replaces_the_first():
    run = make_run()
    for value in (0.9, 0.8):
        record_evaluation(run, {"roc_auc": value}, [])
    assert mlflow.get_run(run.info.run_id).data.metrics["test_roc_auc"] == 0.8


def test_a_fine_tune_run_names_the_run_of_its_initial_model():
    initial, finetuned = make_run(), make_run("finetune")
    link_initial_run(finetuned, MODEL)
    assert mlflow.get_run(finetuned.info.run_id).data.tags["initial_run_id"] == initial.info.run_id


def test_a_fine_tune_run_names_none_if_its_initial_model_has_no_run():
    finetuned = make_run("finetune")
    link_initial_run(finetuned, MODEL)
    assert "initial_run_id" not in mlflow.get_run(finetuned.info.run_id).data.tags
