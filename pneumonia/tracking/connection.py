"""Connect to MLflow's store, a tracking server or the project's own file, and explain what fails on the way."""

import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import mlflow
import requests
import urllib3
from mlflow.exceptions import InvalidUrlException, MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from sqlalchemy.exc import SQLAlchemyError

from pneumonia.core.errors import InputError
from pneumonia.tracking.locations import make_relative
from pneumonia.tracking.sqlite_store import OWN, UnreachableError, explain, find_file, is_own, prepare, to_uri

EXPERIMENT = "pneumonia"
# Gives up a refused connection after three seconds; MLflow's own values take four minutes.
PATIENCE = {"MAX_RETRIES": "2", "BACKOFF_FACTOR": "1", "TIMEOUT": "30"}


def find_server() -> str:
    """Return the tracking server's address without credentials; empty when the store is not a server."""
    uri = urlsplit(os.environ.get("MLFLOW_TRACKING_URI", ""))
    address = f"{uri.scheme}://{uri.netloc.rpartition('@')[2]}{uri.path}".rstrip("/")
    return address if uri.scheme in ("http", "https") else ""


def find_store() -> str:
    """Return the name of the store without credentials; that of the project's own stays when the project is moved."""
    file = find_file()
    return find_server() or (
        OWN if file and is_own(file) else str(file or urlsplit(os.environ["MLFLOW_TRACKING_URI"]).path)
    )


@contextmanager
def reaching(doing: str = "") -> Iterator[None]:
    """Turn the failures of a tracking server, or of an SQLite file, into errors that people can act on.

    Args:
        doing: what the block does, starting with a verb in -ing, such as "promoting a version".

    Raises:
        UnreachableError: the server does not answer, or answers with HTTP 408, 429 or 5xx; the file is held by another
            program.
        InputError: it refuses with another status, such as 400, 401 or 403; the file is damaged or cannot be written.
    """
    meanwhile = f" while {doing}" if doing else ""
    try:
        yield
    except (MlflowException, requests.RequestException, SQLAlchemyError, sqlite3.Error) as error:
        if known := explain(error, meanwhile):
            raise known from error
        if not (server := find_server()) or isinstance(error, SQLAlchemyError | sqlite3.Error):
            raise
        status, reason = _find_status(error), _find_reason(error)
        if status in (408, 429) or status >= 500:
            raise UnreachableError(
                f"The MLflow server {server} cannot be reached{meanwhile}: {reason}.",
                expected="a server that answers, see docs/server.md",
                remedy="start it or correct MLFLOW_TRACKING_URI, then run the same command again; nothing is lost",
            ) from error
        raise InputError(
            f"The MLflow server {server} refused the request with HTTP {status}{meanwhile}: {reason}.",
            expected="a server that knows the caller, if it asks who calls, and accepts what is sent",
            remedy="check MLFLOW_TRACKING_URI, _USERNAME, _PASSWORD and _TOKEN, then run the command again; to give up "
            "a run that no server accepts, delete its folder in mlruns/spool",
        ) from error


def _find_status(error: MlflowException | requests.RequestException) -> int:
    if isinstance(error, MlflowException):  # 500 also where there was no answer
        return 400 if isinstance(error, InvalidUrlException) else error.get_http_status_code()
    return 503 if error.response is None else error.response.status_code


def _find_reason(error: BaseException) -> str:
    # The innermost error is short and does not contain the address, which may hold a password.
    while isinstance(error.__context__, OSError | urllib3.exceptions.HTTPError | MlflowException):
        error = error.__context__
    return " ".join(str(error).split()).rstrip(".")


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
        raise _refuse_address(error) from error
    except (SQLAlchemyError, ImportError) as error:  # a database that does not answer, or whose driver is missing
        raise explain(error) or _refuse_address(error) from error
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


def _refuse_address(error: Exception) -> InputError:
    return InputError(
        f"MLFLOW_TRACKING_URI cannot be used: {re.sub('//[^/@ ]*@', '//', _find_reason(error))}.",
        expected="http:// or https:// and a server, or sqlite:/// and a file; a file of its own if it is unset",
        remedy="correct or unset MLFLOW_TRACKING_URI; a database needs its driver (make setup-server) and has to run",
    )


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
