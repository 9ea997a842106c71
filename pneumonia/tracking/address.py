"""Name the store: MLFLOW_TRACKING_URI, or the project's own SQLite file."""

import os
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy.engine import make_url

from pneumonia.core.files import project_home

OWN = "mlruns/mlflow.db"


def find_file() -> Path | None:
    """Return the file of the SQLite store, by default the project's own; None if MLFLOW_TRACKING_URI names no file."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")  # GitHub sets a missing variable to an empty string
    if not uri:
        return project_home() / OWN
    return project_home() / (make_url(uri).database or "") if uri.startswith("sqlite:///") else None


def to_uri(file: Path) -> str:
    """Return the address of an SQLite store as MLflow takes it."""
    return f"sqlite:///{str(file).replace('%', '%25').replace('?', '%3F')}"


def is_own(file: Path) -> bool:
    """Return whether a store is the project's own, which may be made, repaired and upgraded."""
    return file.absolute() == project_home() / OWN or file.resolve() == (project_home() / OWN).resolve()


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
