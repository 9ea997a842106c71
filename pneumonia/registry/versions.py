"""Find registered versions and read what they hold."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import mlflow
import pandas as pd
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException
from pydantic import TypeAdapter, ValidationError

from pneumonia.core import tables
from pneumonia.core.errors import InputError
from pneumonia.tracking.connection import has_store
from pneumonia.tracking.failures import reaching

MODEL_NAME = "pneumonia-classifier"
TRAIL = "audit."  # and a number: the tags of the registered model that hold the audit trail
ALIASES = ("champion", "challenger")
Kind = TypeVar("Kind")


def find_model(name: str) -> RegisteredModel | None:
    """Return a registered model with its tags and aliases, None if there is none."""
    # `get_registered_model` raises the same error for a missing model as some stores do for a failed connection.
    client = mlflow.MlflowClient()
    if models := client.search_registered_models(f"name = '{name}'"):
        return models[0]
    if name == MODEL_NAME:
        _refuse_renamed(client.search_registered_models())
    return None


def _refuse_renamed(models: Sequence[RegisteredModel]) -> None:
    """Refuse to begin anew, without champion and audit trail, where somebody renamed the registered model."""
    for model in models:
        if f"{TRAIL}0001" in model.tags:
            rename = f"mlflow.MlflowClient().rename_registered_model({model.name!r}, {MODEL_NAME!r})"
            raise InputError(
                f"There is no registered model {MODEL_NAME}, but {model.name!r} has its audit trail.",
                expected=f"a registered model that keeps its name, {MODEL_NAME}",
                remedy=f'rename it in the MLflow UI, or: python -c "import pneumonia.tracking.connection as c, mlflow; '
                f'c.connect(); {rename}"; to begin anew, delete it',
            )


@reaching("reading the registry")
def find_alias(alias: str) -> ModelVersion | None:
    """Return the version with an alias, champion or challenger, None if there is none."""
    if has_store() and (model := find_model(MODEL_NAME)) and alias in model.aliases:
        return mlflow.MlflowClient().get_model_version_by_alias(MODEL_NAME, alias)


@reaching("reading the registry")
def find_version(sha256: str) -> ModelVersion | None:
    """Return the version registered from the package with this SHA-256, None if there is none."""
    if not has_store():
        return None
    found = mlflow.MlflowClient().search_model_versions(f"name = '{MODEL_NAME}' and tags.package_sha256 = '{sha256}'")
    return found[0] if found else None


def get_version(name: str) -> ModelVersion:
    """Return a version by its number or alias.

    Raises:
        InputError: there is no such version.
    """
    if found := find_alias(name):
        return found
    versions = list_versions()
    if found := [version for version in versions if name.isdecimal() and int(name) == int(version.version)]:
        return found[0]
    numbers = sorted(int(version.version) for version in versions)
    raise InputError(
        f"{MODEL_NAME} has no version {name!r}.",
        expected=f"champion, challenger or one of {numbers}" if numbers else "a pipeline that has run to its end here",
        remedy="python -m pneumonia registry list" if numbers else "make repro",
    )


@reaching("reading the registry")
def list_versions() -> list[ModelVersion]:
    """Return all versions, the latest first."""
    if not has_store():
        return []
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
        if isinstance(error, MlflowException) and error.get_http_status_code() != 404:
            raise  # the server does not answer, or refuses
        raise InputError(
            f"The files of version {version.version} of {MODEL_NAME} are missing from the store: {error}.",
            expected=f"the files stored at registration, in {find_location(version)}",
            remedy="restore that folder from a backup or from the project this one was copied from; or delete that "
            "version, and `dvc repro` registers the model again",
        ) from error


def find_location(version: ModelVersion) -> str:
    """Return where the store keeps the files of a version, without credentials."""
    location = mlflow.MlflowClient().get_model_version_download_uri(MODEL_NAME, str(version.version))
    return re.sub("//[^/@]*@", "//", location)


def read_json(tag: str, name: str, owner: str, kind: type[Kind]) -> Kind:
    """Return what a tag of ours holds as JSON, an object of some kind.

    Raises:
        InputError: somebody wrote something else there.
    """
    try:
        return TypeAdapter(kind).validate_json(tag)
    except ValidationError:
        raise bad_tag(tag, name, owner, "JSON of ours") from None


def bad_tag(tag: str, name: str, owner: str, kind: str) -> InputError:
    """Return the error of a tag of ours into which somebody wrote something else than it holds."""
    return InputError(
        f"The tag {name!r} of {owner} is no {kind}: {tag[:40]!r}.",
        expected="what this project wrote there; notes of your own under other names",
        remedy="restore the tag in the MLflow UI from a backup of the store, or delete it there",
    )


def read_predictions(version: ModelVersion) -> pd.DataFrame:
    """Return the predictions of a version on its test images, as the evaluate stage wrote them.

    Raises:
        InputError: the version holds none.
    """
    # Downloads this one file, not the model with it.
    uri = f"models:/{MODEL_NAME}/{version.version}/artifacts/predictions.csv"
    try:
        return tables.read_predictions(mlflow.artifacts.download_artifacts(uri))
    except (MlflowException, OSError) as error:
        raise InputError(
            f"Version {version.version} of {MODEL_NAME} holds no predictions: {error}.",
            expected="the output of the evaluate stage, stored with the version",
            remedy=f"restore what `python -m pneumonia registry verify {version.version}` names, roll back, "
            "or delete that version",
        ) from error
