"""Find MLflow's store, a server or the project's own file, and explain what goes wrong on the way."""

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
# A refused connection is given up after three seconds; with MLflow's own values it takes four minutes.
PATIENCE = {"MAX_RETRIES": "2", "BACKOFF_FACTOR": "1", "TIMEOUT": "30"}


class UnreachableError(InputError):
    """A tracking server that does not answer, or answers that it cannot."""


def find_server() -> str:
    """Return the address of the tracking server without credentials, empty where the store is none."""
    uri = urlsplit(os.environ.get("MLFLOW_TRACKING_URI", ""))
    address = f"{uri.scheme}://{uri.netloc.rpartition('@')[2]}{uri.path}".rstrip("/")
    return address if uri.scheme in ("http", "https") else ""


@contextmanager
def reaching(doing: str = "") -> Iterator[None]:
    """Explain what goes wrong with a tracking server, and while doing what; errors of a local store pass as they are.

    Raises:
        UnreachableError: it does not answer, or with HTTP 408, 429 or 5xx.
        InputError: it refuses with another status, as 400, 401 and 403.
    """
    try:
        yield
    except (MlflowException, requests.RequestException) as error:
        if not (server := find_server()):
            raise
        status = _find_status(error)
        if status in (408, 429) or status >= 500:
            raise UnreachableError(
                f"The MLflow server {server} cannot be reached{doing}: {_find_reason(error)}.",
                expected="a server that answers, as `make server` starts one",
                remedy="start it, or correct MLFLOW_TRACKING_URI, and run the same command again; nothing is lost",
            ) from error
        raise InputError(
            f"The MLflow server {server} refuses with HTTP {status}{doing}: {_find_reason(error)}",
            expected="a server that knows the caller, if it asks for one, and takes what is sent",
            remedy="look at MLFLOW_TRACKING_URI, _USERNAME, _PASSWORD and _TOKEN, and run the same command again; "
            "what no server takes is given up by deleting its folder in mlruns/spool",
        ) from error


def _find_status(error: MlflowException | requests.RequestException) -> int:
    if isinstance(error, MlflowException):  # 500 also where there was no answer
        return 400 if isinstance(error, InvalidUrlException) else error.get_http_status_code()
    return 503 if error.response is None else error.response.status_code


def _find_reason(error: BaseException) -> str:
    # The innermost says it in a few words and without the address, which may hold a password.
    while isinstance(error.__context__, OSError | urllib3.exceptions.HTTPError | MlflowException):
        error = error.__context__
    return " ".join(str(error).split())


@reaching()
def connect() -> str:
    """Point MLflow at MLFLOW_TRACKING_URI, else at the project's SQLite store, and return the experiment's id.

    Raises:
        InputError: a server does not answer or refuses.
    """
    home = project_home() / "mlruns"
    artifacts = None
    if not os.environ.get("MLFLOW_TRACKING_URI"):  # empty as GitHub leaves a variable that was not set
        home.mkdir(exist_ok=True)
        mlflow.set_tracking_uri(f"sqlite:///{home / 'mlflow.db'}")
        artifacts = (home / "artifacts").as_uri()
    elif find_server():
        for name, value in PATIENCE.items():
            os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", value)
        for library in ("urllib3.connectionpool", "mlflow.system_metrics"):  # one warning, ours, is enough
            logging.getLogger(library).setLevel(logging.CRITICAL)
    if experiment := mlflow.get_experiment_by_name(EXPERIMENT):
        return experiment.experiment_id
    kind = {"mlflow.experimentKind": "custom_model_development"}  # else the UI opens on language models
    return mlflow.create_experiment(EXPERIMENT, artifacts, kind)
