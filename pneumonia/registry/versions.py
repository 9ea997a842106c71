"""Find registered versions and read what they hold."""

from pathlib import Path

import mlflow
import pandas as pd
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException

from pneumonia.core.errors import InputError
from pneumonia.tracking.connection import connect, reaching

MODEL_NAME = "pneumonia-classifier"
ALIASES = ("champion", "challenger")


def find_model(name: str) -> RegisteredModel | None:
    """Return a registered model with its tags and aliases, None if there is none."""
    # `get_registered_model` raises the same error for a missing model as some stores do for a failed connection.
    models = mlflow.MlflowClient().search_registered_models(f"name = '{name}'")
    return models[0] if models else None


@reaching("reading the registry")
def find_alias(alias: str) -> ModelVersion | None:
    """Return the version with an alias, champion or challenger, None if there is none."""
    connect()
    if (model := find_model(MODEL_NAME)) and alias in model.aliases:
        return mlflow.MlflowClient().get_model_version_by_alias(MODEL_NAME, alias)


def find_version(sha256: str) -> ModelVersion | None:
    """Return the version registered from the package with this SHA-256, None if there is none."""
    connect()
    found = mlflow.MlflowClient().search_model_versions(f"name = '{MODEL_NAME}' and tags.package_sha256 = '{sha256}'")
    return found[0] if found else None


def get_version(name: str) -> ModelVersion:
    """Return a version by its number or alias.

    Raises:
        InputError: there is no such version.
    """
    if found := find_alias(name):
        return found
    try:
        return mlflow.MlflowClient().get_model_version(MODEL_NAME, name)
    except MlflowException:
        numbers = sorted(int(version.version) for version in list_versions())
        raise InputError(
            f"{MODEL_NAME} has no version {name!r}.",
            expected=f"champion, challenger or one of {numbers}",
            remedy="python -m pneumonia registry list",
        ) from None


def list_versions() -> list[ModelVersion]:
    """Return all versions, the latest first."""
    connect()
    versions = mlflow.MlflowClient().search_model_versions(f"name = '{MODEL_NAME}'")
    return sorted(versions, key=lambda version: -int(version.version))


def describe_versions() -> list[str]:
    """Return one line for each version that has an alias."""
    lines = []
    for alias in ALIASES:
        if version := find_alias(alias):
            roc_auc, recipe = (version.tags.get(name, "unknown") for name in ("test_roc_auc", "recipe"))
            lines.append(f"{alias}: version {version.version}, test ROC AUC {roc_auc}, recipe {recipe}")
    return lines


def download_version(version: ModelVersion, into: Path | None = None) -> Path:
    """Download all files of a version and return their folder.

    Args:
        version: the version.
        into: target folder; MLflow chooses one by default.

    Raises:
        InputError: the files are missing from the store.
    """
    try:
        uri = f"models:/{MODEL_NAME}/{version.version}"
        return Path(mlflow.artifacts.download_artifacts(uri, dst_path=into and str(into)))
    except (MlflowException, OSError) as error:
        raise InputError(
            f"The files of version {version.version} of {MODEL_NAME} cannot be downloaded: {error}.",
            expected="the files stored at registration",
            remedy="restore them from a backup, or register the model again: dvc repro",
        ) from error


def read_predictions(version: ModelVersion) -> pd.DataFrame:
    """Return the predictions of a version on its test images, as the evaluate stage wrote them.

    Raises:
        InputError: the version holds none.
    """
    # Downloads this one file, not the model with it.
    uri = f"models:/{MODEL_NAME}/{version.version}/artifacts/predictions.csv"
    try:
        predictions = mlflow.artifacts.download_artifacts(uri)
        return pd.read_csv(predictions, dtype={"sha256": "str", "patient_id": "str"}, keep_default_na=False)
    except (MlflowException, OSError) as error:
        raise InputError(
            f"Version {version.version} of {MODEL_NAME} holds no predictions: {error}.",
            expected="the output of the evaluate stage, stored with the version",
            remedy=f"restore what `python -m pneumonia registry verify {version.version}` names, roll back, "
            "or delete that version",
        ) from error
