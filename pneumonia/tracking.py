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
from mlflow.entities import Metric, Run

from pneumonia.files import project_home, sha256_file
from pneumonia.params import Params
from pneumonia.records import SPLITS

if TYPE_CHECKING:
    from pneumonia.augment import Dataset

EXPERIMENT = "pneumonia"
LIBRARIES = ("dvc", "keras", "mlflow", "numpy", "pandas", "pillow", "scikit-learn", "scipy", "tensorflow")
Phase = str  # "train" or "finetune"
BATCH = 1000  # metrics that MLflow takes in one call


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
            data = from_numpy(
                part.images[:: part.views], targets=part.labels, name=f"{params.data.source} {split}", digest=digest
            )  # pyright: ignore
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


def log_epoch(epoch: int, logs: dict[str, float], rates: pd.DataFrame) -> None:
    """Send the metrics of an epoch, and what the optimiser used in it, to the active run.

    Args:
        epoch: number from 0 as in Keras; MLflow shows it from 1.
        logs: metrics of the epoch. What `rates` holds step by step is left out.
        rates: columns learning_rate and perhaps momentum, under the number of the optimiser's step from 1.
    """
    now = int(time.time() * 1000)
    sent = [Metric(name, value, now, epoch + 1) for name, value in logs.items() if name not in rates]
    for name, values in rates.items():
        sent += [Metric(str(name), value, now, int(step)) for step, value in zip(rates.index, values, strict=True)]
    run = mlflow.active_run()
    assert run
    for start in range(0, len(sent), BATCH):
        mlflow.MlflowClient().log_batch(run.info.run_id, sent[start : start + BATCH])


def log_range_test(path: Path, notice: str) -> None:
    """Add a range test to the active run, when there was one: table, figure and `found_learning_rate`.

    Args:
        path: table that the phase wrote.
        notice: stands below the figure.
    """
    from pneumonia.rate_finder import draw_range_test, find_suggestion, read_range_test  # as in `ensure_run`

    table = read_range_test(path)
    if len(table):
        mlflow.log_metric("found_learning_rate", find_suggestion(table, "valley"))
        mlflow.log_artifact(str(path), "range_test")
        mlflow.log_figure(draw_range_test(table, notice), "range_test/range_test.png")


def log_best(best: dict[str, float]) -> None:
    """Add what the kept epoch reached to the active run, as `best_val_loss` and so on: sweeps are ranked by it."""
    mlflow.log_metrics({f"best_{name}": value for name, value in best.items()})


def tag_model(model: Path) -> None:
    """Link the active run to the model it made by the model's SHA-256."""
    mlflow.set_tag("model_sha256", sha256_file(model))


def link_initial_run(run: Run, initial: Path) -> None:
    """Name in a fine-tune run the run that made the model it started from."""
    if found := find_run("train", initial):
        mlflow.MlflowClient().set_tag(run.info.run_id, "initial_run_id", found.info.run_id)


def find_run(phase: Phase, model: Path, experiment: str | None = None) -> Run | None:
    """Return the latest run of a phase that made exactly this model, in a DVC experiment when one is named."""
    query = f"tags.phase = '{phase}' and tags.model_sha256 = '{sha256_file(model)}'"
    query += f" and tags.dvc_exp_name = '{experiment}'" if experiment else ""
    runs = mlflow.search_runs([connect()], query, max_results=1, output_format="list")
    return runs[0] if runs else None  # pyright: ignore


def ensure_run(phase: Phase, params: Params, dataset: Path, model: Path, history: Path, range_test: Path) -> Run:
    """Return the run that made `model`; when DVC restored it instead of training it here, record one from its files.

    A DVC experiment has a fine-tune run of its own also when another one made the same model: test metrics may differ.
    Of the learning rate a restored run holds what the last step of each epoch used.
    """
    if run := find_run(phase, model, os.environ.get("DVC_EXP_NAME") if phase == "finetune" else None):
        return run
    from pneumonia.augment import read_dataset  # SciPy takes half a second to import, and this is rare
    from pneumonia.training import describe_best

    films = read_dataset(dataset)
    steps = -(-len(films.train.labels) // getattr(params, phase).batch_size)
    with _new_run(phase, params, films, dataset, connect()) as run:
        mlflow.set_tag("restored", "True")
        epochs = pd.read_csv(history)
        for row in epochs.to_dict("records"):
            epoch = int(row.pop("epoch"))
            rates = pd.DataFrame({"learning_rate": row["learning_rate"]}, [epoch * steps])
            log_epoch(epoch - 1, {str(name): float(value) for name, value in row.items()}, rates)
        log_best(describe_best(epochs, getattr(params, phase).monitor))
        log_range_test(range_test, params.data.notice)
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
