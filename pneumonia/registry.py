"""Register a model, gate it against floors and the present champion, and promote it."""

import json
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

from pneumonia.files import sha256_bytes, sha256_file
from pneumonia.params import Params, RegisterParams
from pneumonia.tracking import connect

MODEL_NAME = "pneumonia-classifier"
Metrics = dict[str, float]


@dataclass(frozen=True)
class Check:
    """One thing a challenger was asked for."""

    what: str
    value: float | str
    bound: float | str
    passed: bool


def find_version(sha256: str) -> ModelVersion | None:
    """Return the registered version that holds the model with this SHA-256."""
    connect()
    found = mlflow.MlflowClient().search_model_versions(f"name = '{MODEL_NAME}' and tags.model_sha256 = '{sha256}'")
    return found[0] if found else None


def find_alias(alias: str) -> ModelVersion | None:
    """Return the version with an alias, champion or challenger, None when there is none."""
    connect()
    client = mlflow.MlflowClient()
    # Asked this way, a store that cannot be reached is an error and not a registry without a champion.
    models = client.search_registered_models(f"name = '{MODEL_NAME}'")
    return client.get_model_version_by_alias(MODEL_NAME, alias) if models and alias in models[0].aliases else None


def register_model(run: Run, model: Path, size: int, tags: dict[str, str], notice: str) -> ModelVersion:
    """Log a .keras file as an MLflow model of its run and register it, once per SHA-256, as challenger.

    Args:
        run: the fine-tune run that made it.
        model: the file.
        size: side of its input in pixels.
        tags: of the version.
        notice: description of the version.
    """
    tags = tags | {"model_sha256": sha256_file(model)}
    version = find_version(tags["model_sha256"]) or _create_version(run, model, size, tags, notice)
    mlflow.MlflowClient().set_registered_model_alias(MODEL_NAME, "challenger", version.version)
    return version


def _create_version(run: Run, model: Path, size: int, tags: dict[str, str], notice: str) -> ModelVersion:
    films = Schema([TensorSpec(np.dtype(np.uint8), (-1, size, size))])
    probabilities = Schema([TensorSpec(np.dtype(np.float64), (-1,))])
    mlflow.start_run(run_id=run.info.run_id)
    try:
        with warnings.catch_warnings():
            # Importing mlflow.pyfunc warns about type hints of MLflow's own.
            warnings.filterwarnings("ignore", ".*type hint", UserWarning)
            logged = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(Path(__file__).with_name("pyfunc_model.py")),
                artifacts={"model": str(model)},
                signature=ModelSignature(films, probabilities),
                input_example=np.zeros((1, size, size), np.uint8),
                pip_requirements=[f"{name}=={_version(name)}" for name in ("keras", "mlflow", "numpy", "tensorflow")],
            )
    finally:
        mlflow.end_run()
    created = mlflow.register_model(logged.model_uri, MODEL_NAME, tags=tags)
    return mlflow.MlflowClient().update_model_version(MODEL_NAME, created.version, notice)


def _version(library: str) -> str:
    import importlib

    return importlib.import_module(library).__version__


def download_model(version: ModelVersion) -> Path:
    """Fetch the .keras file of a registered version and return where it lies."""
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{MODEL_NAME}/{version.version}"))
    return next((folder / "artifacts").glob("*.keras"))


def check_challenger(challenger: Metrics, champion: Metrics | None, gates: RegisterParams) -> list[Check]:
    """Compare test metrics with the floors and with those of the champion on the same films."""
    floors = {"roc_auc": gates.min_roc_auc, "sensitivity": gates.min_sensitivity, "specificity": gates.min_specificity}
    checks = [
        Check(f"{name} floor", challenger[name], floor, challenger[name] >= floor) for name, floor in floors.items()
    ]
    if champion is not None:
        bound = champion["roc_auc"] - gates.margin
        checks.append(
            Check("roc_auc of champion, less margin", challenger["roc_auc"], bound, challenger["roc_auc"] >= bound)
        )
    return checks


def measure_version(version: ModelVersion, records: pd.DataFrame, raw: Path, params: Params) -> Metrics:
    """Return the test metrics of a registered version on the films of `records`, in that version's own way.

    Size, threshold and flip are its own; where it has none, a threshold of 0.5 and no flip.
    """
    # TensorFlow takes seconds to import, and most calls find nothing to compare.
    from pneumonia.activations import ActivationCache
    from pneumonia.augment import read_split
    from pneumonia.metrics import compute_metrics
    from pneumonia.model import load_model
    from pneumonia.predict import predict_probabilities

    model = load_model(download_model(version))
    test = read_split(records, raw, model.input_shape[1])
    cache = ActivationCache(params.compute, params.cache)
    probabilities = predict_probabilities(model, test.images, cache, version.tags.get("flip") == "True")
    return compute_metrics(test.labels, probabilities, float(version.tags.get("test_threshold", 0.5)))


def consider(
    version: ModelVersion, metrics: Metrics, records: pd.DataFrame, raw: Path, params: Params
) -> tuple[str, list[Check]]:
    """Decide whether a version becomes champion, and move the alias if so.

    The present champion is measured anew on the same test films. A model of synthetic films never takes the place of
    one trained on real ones. A decision already taken on the same evidence is not taken again.

    Args:
        version: the challenger.
        metrics: its metrics on the test films.
        records: the test films.
        raw: folder of the films.
        params: gates, and how a model is evaluated.

    Returns:
        The outcome in a sentence, and what was checked.
    """
    champion = find_alias("champion")
    if champion and champion.version == version.version:
        return f"everything is up to date, version {version.version} is the champion", read_checks(version)
    evidence = [champion and champion.version, metrics, sorted(records["sha256"]), params.register_.model_dump()]
    key = sha256_bytes(json.dumps(evidence).encode())
    if version.tags.get("checked") == key:
        return f"everything is up to date, version {version.version} stays challenger", read_checks(version)
    rival = None
    checks: list[Check] = []
    if champion and champion.tags.get("synthetic") == "False" and params.data.notice:
        checks.append(Check("trained on real films, as the champion is", "synthetic", "real", False))
    elif champion:
        rival = measure_version(champion, records, raw, params)
    checks += check_challenger(metrics, rival, params.register_)
    if promote(version, checks, key):
        return f"version {version.version} is the new champion", checks
    return f"version {version.version} stays challenger" + (
        f", champion is version {champion.version}" if champion else ""
    ), checks


def read_checks(version: ModelVersion) -> list[Check]:
    """Return what a version was checked for when its promotion was decided."""
    return [Check(**check) for check in json.loads(version.tags.get("checks", "[]"))]


def promote(version: ModelVersion, checks: list[Check], key: str) -> bool:
    """Move the alias champion to a version whose checks all passed; keep checks and outcome as its tags."""
    client = mlflow.MlflowClient()
    promoted = all(check.passed for check in checks)
    if promoted:
        client.set_registered_model_alias(MODEL_NAME, "champion", version.version)
    client.set_model_version_tag(MODEL_NAME, version.version, "checks", json.dumps([asdict(check) for check in checks]))
    client.set_model_version_tag(MODEL_NAME, version.version, "checked", key)
    return promoted


def describe_versions() -> list[str]:
    """Return a line for each version that has an alias."""
    lines = []
    for alias in ("champion", "challenger"):
        if version := find_alias(alias):
            measured = f"test ROC AUC {version.tags['test_roc_auc']}"
            lines.append(f"{alias}: version {version.version}, {measured}, recipe {version.tags['recipe']}")
    return lines
