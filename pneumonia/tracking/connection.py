"""Connect to MLflow's store, a tracking server or the project's own file."""

import logging
import os
from functools import cache
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from sqlalchemy.exc import SQLAlchemyError

from pneumonia.core.errors import InputError
from pneumonia.tracking.address import find_file, find_server, is_own, to_uri
from pneumonia.tracking.failures import explain, reaching, refuse_address
from pneumonia.tracking.locations import make_relative
from pneumonia.tracking.sqlite_store import prepare

EXPERIMENT = "pneumonia"
# Gives up a refused connection after three seconds; MLflow's own values take four minutes.
PATIENCE = {"MAX_RETRIES": "2", "BACKOFF_FACTOR": "1", "TIMEOUT": "30"}


@reaching("opening the store")
def has_store() -> bool:
    """Connect MLflow to the store without creating anything, and return False where there is none yet.

    Raises:
        InputError: the store cannot be read, or this is not the folder of a project.
    """
    file = find_file()
    if file is None:
        _be_patient()
        return True
    if not prepare(file, make=None):
        return False
    _use(file)
    return True


@reaching("looking up the experiment")
def connect() -> str:
    """Connect MLflow to MLFLOW_TRACKING_URI, or to the project's SQLite store, and return the experiment's id.

    What is missing is made: the store, if it is the project's own, and the experiment. An experiment that was deleted
    is restored.

    Raises:
        UnreachableError: the server does not answer, or another program holds the store.
        InputError: the server refuses or is too old, or the store cannot be used.
    """
    if file := find_file():
        prepare(file, _make_tables)
        _use(file)
    else:
        _be_patient()
    try:
        client = mlflow.MlflowClient()
        experiment = client.get_experiment_by_name(EXPERIMENT)
    except MlflowException as error:
        if find_server() or explain(error):
            raise
        raise refuse_address(error) from error
    except (SQLAlchemyError, ImportError) as error:  # a database that does not answer, or whose driver is missing
        raise explain(error) or refuse_address(error) from error
    if find_server():
        _check_version(find_server())
    if experiment is None:
        created = _create_experiment(client)
        if file and is_own(file):
            make_relative(file)
        return created
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
        print(f"Restored the experiment {EXPERIMENT}, which had been deleted, and its runs.", flush=True)
    return experiment.experiment_id


def _make_tables(file: Path) -> None:
    _create_experiment(mlflow.MlflowClient(to_uri(file)))
    make_relative(file)


def _create_experiment(client: mlflow.MlflowClient) -> str:
    file = find_file()
    artifacts = file.with_name("artifacts").as_uri() if file and is_own(file) else None
    kind = {"mlflow.experimentKind": "custom_model_development"}  # else the UI opens on language models
    try:
        return client.create_experiment(EXPERIMENT, artifacts, kind)
    except MlflowException as error:
        # Another command was faster.
        if error.error_code != "RESOURCE_ALREADY_EXISTS" or not (made := client.get_experiment_by_name(EXPERIMENT)):
            raise
        return made.experiment_id


def _use(file: Path) -> None:
    if is_own(file):
        make_relative(file)
    mlflow.set_tracking_uri(to_uri(file))
    _be_quiet("mlflow.store.db.utils")


def _be_patient() -> None:
    for name, value in PATIENCE.items():
        os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", value)
    _be_quiet("urllib3.connectionpool")


def _be_quiet(library: str) -> None:
    for name in (library, "mlflow.system_metrics"):  # our own message is enough
        logging.getLogger(name).setLevel(logging.CRITICAL)


@cache
def _check_version(server: str) -> None:
    """Refuse a server older than MLflow 3, which would fail at the end, when the model is registered."""
    answer = http_request(get_default_host_creds(mlflow.get_tracking_uri()), "/version", "GET", raise_on_status=False)
    assert answer is not None
    version = answer.text.strip()
    if answer.ok and version.split(".")[0] in ("0", "1", "2"):
        raise InputError(
            f"The MLflow server {server} is MLflow {version}.",
            expected="MLflow 3 or later, see docs/server.md",
            remedy="upgrade the server, or let MLFLOW_TRACKING_URI name another",
        )
