"""Connect to MLflow's store, a tracking server or the project's own file, and explain what fails on the way."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import mlflow
import requests
import urllib3
from mlflow.exceptions import InvalidUrlException, MlflowException

from pneumonia.core.errors import InputError
from pneumonia.core.files import project_home

EXPERIMENT = "pneumonia"
# Gives up a refused connection after three seconds; MLflow's own values take four minutes.
PATIENCE = {"MAX_RETRIES": "2", "BACKOFF_FACTOR": "1", "TIMEOUT": "30"}


class UnreachableError(InputError):
    """A tracking server does not answer, or answers that it cannot serve the request now."""


def find_server() -> str:
    """Return the tracking server's address without credentials; empty when the store is not a server."""
    uri = urlsplit(os.environ.get("MLFLOW_TRACKING_URI", ""))
    address = f"{uri.scheme}://{uri.netloc.rpartition('@')[2]}{uri.path}".rstrip("/")
    return address if uri.scheme in ("http", "https") else ""


@contextmanager
def reaching(doing: str = "") -> Iterator[None]:
    """Turn a tracking server's failures into errors that people can act on; errors of a local store pass unchanged.

    Args:
        doing: what the block does, starting with a verb in -ing, such as "promoting a version".

    Raises:
        UnreachableError: the server does not answer, or answers with HTTP 408, 429 or 5xx.
        InputError: it refuses with another status, such as 400, 401 or 403.
    """
    try:
        yield
    except (MlflowException, requests.RequestException) as error:
        if not (server := find_server()):
            raise
        status, reason, meanwhile = _find_status(error), _find_reason(error), f" while {doing}" if doing else ""
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


@reaching("looking up the experiment")
def connect() -> str:
    """Connect MLflow to MLFLOW_TRACKING_URI, or to the project's SQLite store, and return the experiment's id.

    Raises:
        InputError: the server does not answer or refuses, see `reaching`.
    """
    home = project_home() / "mlruns"
    artifacts = None
    if not os.environ.get("MLFLOW_TRACKING_URI"):  # GitHub sets a missing variable to an empty string
        home.mkdir(exist_ok=True)
        mlflow.set_tracking_uri(f"sqlite:///{home / 'mlflow.db'}")
        artifacts = (home / "artifacts").as_uri()
    elif find_server():
        for name, value in PATIENCE.items():
            os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", value)
        for library in ("urllib3.connectionpool", "mlflow.system_metrics"):  # our own message is enough
            logging.getLogger(library).setLevel(logging.CRITICAL)
    if experiment := mlflow.get_experiment_by_name(EXPERIMENT):
        return experiment.experiment_id
    kind = {"mlflow.experimentKind": "custom_model_development"}  # else the UI opens on language models
    return mlflow.create_experiment(EXPERIMENT, artifacts, kind)
