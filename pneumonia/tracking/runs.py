"""Find runs by the model they made, and add to finished ones."""

import json
from pathlib import Path

import mlflow
from mlflow.entities import Run

from pneumonia.core.files import sha256_bytes, sha256_file
from pneumonia.tracking.connection import connect
from pneumonia.tracking.failures import reaching

Phase = str  # "train" or "finetune"


@reaching("looking up a run")
def find_run(phase: Phase, model: Path, experiment: str | None = None) -> Run | None:
    """Return the latest run of a phase that made exactly this model, or None.

    Args:
        phase: "train" or "finetune".
        model: file whose SHA-256 the run is tagged with.
        experiment: name of the DVC experiment that the run must belong to; None for any.
    """
    query = f"tags.phase = '{phase}' and tags.model_sha256 = '{sha256_file(model)}'"
    query += f" and tags.dvc_exp_name = '{experiment}'" if experiment else ""
    runs = mlflow.search_runs([connect()], query, max_results=1, output_format="list")
    return runs[0] if runs else None  # pyright: ignore


@reaching("linking a run to its initial run")
def link_initial_run(run: Run, initial: Path) -> None:
    """Tag a fine-tune run with the id of the run that made its initial model, if there is one."""
    if found := find_run("train", initial):
        mlflow.MlflowClient().set_tag(run.info.run_id, "initial_run_id", found.info.run_id)


@reaching("recording an evaluation")
def record_evaluation(run: Run, metrics: dict[str, float], files: list[Path]) -> None:
    """Add test metrics and files to a finished run, unless it has exactly these already.

    Args:
        run: of the phase that made the model.
        metrics: logged as `test_<name>`.
        files: PNG figures, logged below figures/, and others such as report and model card.
    """
    client, run_id = mlflow.MlflowClient(), run.info.run_id
    digest = sha256_bytes("".join([json.dumps(metrics), *map(sha256_file, files)]).encode())
    if client.get_run(run_id).data.tags.get("evaluation_sha256") == digest:
        return
    for name, value in metrics.items():
        client.log_metric(run_id, f"test_{name}", float(value))
    for path in files:
        client.log_artifact(run_id, str(path), "figures" if path.suffix == ".png" else None)
    client.set_tag(run_id, "evaluation_sha256", digest)
