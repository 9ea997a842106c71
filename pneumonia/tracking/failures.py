"""Turn what fails between here and MLflow's store into errors that people can act on."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import requests
import urllib3
from mlflow.exceptions import InvalidUrlException, MlflowException
from sqlalchemy.exc import SQLAlchemyError

from pneumonia.core.errors import InputError
from pneumonia.tracking.address import find_file, find_server

_WHOLE = "restore {store} from a backup, or save what can be read: sqlite3 {store} .recover | sqlite3 recovered.db"
# By the beginning of SQLite's error name: what is wrong, what was expected, what to do.
TROUBLES = {
    "SQLITE_BUSY": (
        "is held by another program",
        "a store that is free, or becomes so within seconds",
        "close that program (a database browser, a backup) and run the same command again; nothing is lost",
    ),
    "SQLITE_READONLY": (
        "cannot be written",
        "a file and a folder that this account may write to",
        "correct the owner and mode of {folder}, or how it is mounted",
    ),
    "SQLITE_CANTOPEN": (
        "cannot be opened",
        "a file that this account may read, in a folder that exists",
        "correct MLFLOW_TRACKING_URI, if it is set, or the owner and mode of {folder}",
    ),
    "SQLITE_FULL": ("does not fit on its disk", "free space", "free some: make clean-cache, dvc gc -w"),
    "SQLITE_IOERR": ("cannot be read or written", "a disk that works and has free space", "check the disk"),
    "SQLITE_CORRUPT": ("is damaged", "a whole SQLite file", _WHOLE),
    "SQLITE_NOTADB": ("is damaged, or no store of MLflow", "a whole SQLite file", _WHOLE),
}  # fmt: skip
TROUBLES["SQLITE_LOCKED"] = TROUBLES["SQLITE_BUSY"]


class UnreachableError(InputError):
    """A store does not answer now: a server that is away or overloaded, a file that another program holds."""


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


def explain(error: BaseException, meanwhile: str = "") -> InputError | None:
    """Return what an error of SQLite's means, None if it is no such error.

    Args:
        error: SQLite's, or MLflow's and SQLAlchemy's around it.
        meanwhile: what failed, such as " while promoting a version".
    """
    cause: BaseException | None = error
    while cause and not isinstance(cause, sqlite3.Error):
        cause = cause.__cause__ or cause.__context__
    name = getattr(cause, "sqlite_errorname", "")
    if not (file := find_file()) or not (known := [key for key in TROUBLES if name.startswith(key)]):
        return None
    what, expected, remedy = TROUBLES[known[0]]
    kind = UnreachableError if known[0] in ("SQLITE_BUSY", "SQLITE_LOCKED") else InputError
    remedy = remedy.format(store=file, folder=file.parent)
    return kind(f"The store {file} {what}{meanwhile}: {cause}.", expected=expected, remedy=remedy)


def refuse_address(error: Exception) -> InputError:
    """Return the error of an MLFLOW_TRACKING_URI that leads to no store."""
    return InputError(
        f"MLFLOW_TRACKING_URI cannot be used: {re.sub('//[^/@ ]*@', '//', _find_reason(error))}.",
        expected="http:// or https:// and a server, or sqlite:/// and a file; a file of its own if it is unset",
        remedy="correct or unset MLFLOW_TRACKING_URI; a database needs its driver (make setup-server) and has to run",
    )
