"""Record training phases as MLflow runs, whether they were executed here or restored by DVC."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import pandas as pd
from mlflow.data.numpy_dataset import from_numpy
from mlflow.entities import Run

from pneumonia.files import project_home, sha256_file
from pneumonia.params import Params
from pneumonia.records import SPLITS

if TYPE_CHECKING:
    from pneumonia.augment import Dataset

EXPERIMENT = "pneumonia"
LIBRARIES = ("dvc", "keras", "mlflow", "numpy", "pandas", "pillow", "scikit-learn", "scipy", "tensorflow")
Phase = str  # "train" or "finetune"


def connect() -> str:
    """Point MLflow at MLFLOW_TRACKING_URI, else at the project's SQLite store, and return the experiment's id."""
    home = project_home() / "mlruns"
    artifacts = None
    if "MLFLOW_TRACKING_URI" not in os.environ:
        home.mkdir(exist_ok=True)
        mlflow.set_tracking_uri(f"sqlite:///{home / 'mlflow.db'}")
        artifacts = (home / "artifacts").as_uri()
    if experiment := mlflow.get_experiment_by_name(EXPERIMENT):
        return experiment.experiment_id
    kind = {"mlflow.experimentKind": "custom_model_development"}  # else the UI opens on language models
    return mlflow.create_experiment(EXPERIMENT, artifacts, kind)


@contextmanager
def phase_run(phase: Phase, params: Params, dataset: "Dataset", dataset_path: Path, state: Path) -> Iterator[Run]:
    """Open the run of a training phase, the same one again when the phase goes on after it was killed.

    Args:
        phase: "train" or "finetune".
        params: all of params.yaml; logged flattened.
        dataset: its counts are logged.
        dataset_path: file whose SHA-256 identifies the data.
        state: folder of the phase's training state; remembers the run.
    """
    experiment = connect()
    remembered = state / "mlflow_run"
    mlflow.set_system_metrics_sampling_interval(2)
    started = time.monotonic()
    if remembered.exists() and mlflow.search_runs(
        [experiment], f"attributes.run_id = '{remembered.read_text()}'", output_format="list"
    ):
        opened = mlflow.start_run(run_id=remembered.read_text(), log_system_metrics=True)
    else:
        opened = _new_run(phase, params, dataset, dataset_path, experiment, log_system_metrics=True)
    with opened as run:
        state.mkdir(parents=True, exist_ok=True)
        remembered.write_text(run.info.run_id)
        yield run
        mlflow.log_metric("duration_seconds", round(time.monotonic() - started, 1))


@contextmanager
def _new_run(
    phase: Phase, params: Params, dataset: "Dataset", dataset_path: Path, experiment: str, **options: Any
) -> Iterator[Run]:
    experiment_name = os.environ.get("DVC_EXP_NAME")
    tags = {"phase": phase, "dataset_sha256": sha256_file(dataset_path), **describe_code()}
    tags |= {"dvc_exp_name": experiment_name} if experiment_name else {}
    with mlflow.start_run(
        experiment_id=experiment, run_name=f"{experiment_name or params.recipe} {phase}", tags=tags,
        description=params.data.notice or None, **options,
    ) as run:  # fmt: skip
        mlflow.log_params(params.flat())
        for split in SPLITS:
            part = getattr(dataset, split)
            mlflow.log_param(f"films.{split}", len(part.labels))
            digest = tags["dataset_sha256"][:32]  # MLflow keeps at most 36 characters
            data = from_numpy(part.images, targets=part.labels, name=f"{params.data.source} {split}", digest=digest)  # pyright: ignore
            mlflow.log_input(data, context=split)
        yield run


def describe_code() -> dict[str, str]:
    """Return git commit, whether tracked files differ from it, and library versions, as tags."""
    git = {"git_commit": find_commit(), "git_dirty": str(bool(_git("status", "--porcelain", "-uno")))}
    # TensorFlow is installed as tensorflow or tensorflow_cpu.
    installed = {found.name.removesuffix("_cpu"): found.version for found in distributions()}
    return git | {f"version.{library}": installed[library] for library in LIBRARIES}


def find_commit() -> str:
    """Return the commit that is checked out, `none` outside git."""
    return _git("rev-parse", "HEAD")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() or ("" if done.returncode == 0 else "none")


def log_epoch(epoch: int, logs: dict[str, float]) -> None:
    """Send the metrics of an epoch, numbered from 0 as in Keras, to the active run under its number from 1."""
    mlflow.log_metrics(logs, step=epoch + 1)


def tag_model(model: Path) -> None:
    """Link the active run to the model it made by the model's SHA-256."""
    mlflow.set_tag("model_sha256", sha256_file(model))


def link_initial_run(run: Run, initial: Path) -> None:
    """Name in a fine-tune run the run that made the model it started from."""
    if found := find_run("train", initial):
        mlflow.MlflowClient().set_tag(run.info.run_id, "initial_run_id", found.info.run_id)


def find_run(phase: Phase, model: Path) -> Run | None:
    """Return the latest run of a phase that made exactly this model."""
    query = f"tags.phase = '{phase}' and tags.model_sha256 = '{sha256_file(model)}'"
    runs = mlflow.search_runs([connect()], query, max_results=1, output_format="list")
    return runs[0] if runs else None  # pyright: ignore


def ensure_run(phase: Phase, params: Params, dataset: Path, model: Path, history: Path) -> Run:
    """Return the run that made `model`; when DVC restored it instead of training it here, record one from its files."""
    if run := find_run(phase, model):
        return run
    from pneumonia.augment import read_dataset  # SciPy takes half a second to import, and this is rare

    with _new_run(phase, params, read_dataset(dataset), dataset, connect()) as run:
        mlflow.set_tag("restored", "True")
        for row in pd.read_csv(history).to_dict("records"):
            log_epoch(int(row.pop("epoch")) - 1, {str(name): float(value) for name, value in row.items()})
        tag_model(model)
    return run


def record_evaluation(run: Run, metrics: dict[str, float], figures: list[Path]) -> None:
    """Add test metrics and figures to a finished run, once."""
    client = mlflow.MlflowClient()
    logged = client.get_run(run.info.run_id).data.metrics
    wanted = {f"test_{name}": float(value) for name, value in metrics.items()}
    if all(logged.get(name) == value for name, value in wanted.items()):
        return
    for name, value in wanted.items():
        client.log_metric(run.info.run_id, name, value)
    for figure in figures:
        client.log_artifact(run.info.run_id, str(figure), "figures")
