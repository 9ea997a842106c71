"""Serve the API and the page until a signal ends the process."""

import argparse
import logging
import socket

import uvicorn

from pneumonia.core.errors import InputError
from pneumonia.inference.predictor import Predictor
from pneumonia.registry.load import load_predictor
from pneumonia.serving.app import create_app
from pneumonia.serving.settings import Settings
from pneumonia.tracking.connection import reaching


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `run`."""
    parser.add_argument("--model", help="champion (default), challenger, a version, or a .keras file")
    parser.add_argument("--host", help="address to listen on; 127.0.0.1 by default")
    parser.add_argument("--port", help="8000 by default")


def run(**flags: str | None) -> None:
    """Serve until a signal ends the process. Flags override PNEUMONIA_* variables, see `Settings`.

    Raises:
        InputError: a setting is invalid, the port is taken, or the model cannot be loaded.
    """
    settings = Settings.read(**flags)
    check_address(settings.host, settings.port)
    from pneumonia.serving.page import mount_page  # Gradio is slow to import

    app = create_app(settings)
    app.state.batcher.predictor = load(settings.model)
    mount_page(app, app.state.batcher, settings.max_upload_mb)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("pneumonia").setLevel(logging.INFO)
    uvicorn.run(
        app, host=settings.host, port=settings.port, log_config=None, log_level="info", access_log=False,
        server_header=False, ws="none", timeout_graceful_shutdown=5,
    )  # fmt: skip


def check_address(host: str, port: int) -> None:
    """Say that nothing can listen there before the model is loaded, which takes seconds.

    Raises:
        InputError: the port is taken or reserved, or the host is not an address of this machine.
    """
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        raise InputError(
            f"The service cannot listen on {host}, port {port}: {error.strerror}.",
            expected="an address of this machine and a free port",
            remedy="PORT=8001 make serve, or stop what listens there",
        ) from None


def load(name: str) -> Predictor:
    """Load the first model, before the port opens.

    Raises:
        InputError: it cannot be loaded.
    """
    try:
        with reaching():
            return load_predictor(name)
    except InputError:
        raise
    except Exception as error:  # a damaged store or file fails in its own way
        raise InputError(
            f"The model {name!r} cannot be loaded: {error}.",
            expected="a registered version with all its files, or a .keras file as `make repro` leaves it",
            remedy="python -m pneumonia registry verify, or choose another model",
        ) from error
