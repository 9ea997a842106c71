"""Serve the API and the page until a signal ends the process."""

import argparse
import logging

import uvicorn

from pneumonia.core.errors import InputError
from pneumonia.inference.predictor import Predictor
from pneumonia.registry.load import load_predictor
from pneumonia.serving.app import create_app
from pneumonia.serving.settings import Settings
from pneumonia.tracking.connection import reaching


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `run`."""
    parser.add_argument("--model", help="champion, challenger, a version, or a .keras file")
    parser.add_argument("--host", help="address to listen at; 127.0.0.1 by default")
    parser.add_argument("--port", help="8000 by default")


def run(**given: str | None) -> None:
    """Serve until a signal ends it.

    Raises:
        InputError: a setting cannot be used, or the model cannot be loaded.
    """
    settings = Settings.read(**given)
    app = create_app(settings)
    app.state.service.predictor = load(settings.model)
    from pneumonia.serving.page import mount_page  # Gradio is slow to import

    mount_page(app, app.state.service, settings.max_upload_mb)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("pneumonia").setLevel(logging.INFO)
    uvicorn.run(
        app, host=settings.host, port=settings.port, log_config=None, log_level="info", access_log=False,
        server_header=False, ws="none", timeout_graceful_shutdown=5,
    )  # fmt: skip


def load(name: str) -> Predictor:
    """Load the model that is to answer first.

    Raises:
        InputError: it cannot be loaded.
    """
    try:
        with reaching():
            return load_predictor(name)
    except InputError:
        raise
    except Exception as error:  # of a store or a file that is damaged in a way of its own
        raise InputError(
            f"The model {name!r} cannot be loaded: {error}.",
            expected="a registered version whose files are in place, or a .keras file as `make repro` leaves it",
            remedy="python -m pneumonia registry verify, or name another one",
        ) from error
