"""Serve the API and the page until a signal ends the process."""

import argparse
import asyncio
import gc
import logging
import socket
from contextlib import suppress

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from pneumonia.core.errors import InputError
from pneumonia.inference.predictor import Predictor
from pneumonia.registry.load import load_predictor
from pneumonia.serving.app import create_app
from pneumonia.serving.settings import Settings
from pneumonia.tracking.failures import reaching

HEADER_SECONDS = 10  # from the first byte of a request, or from the connection, to the end of its headers


class Protocol(H11Protocol):
    """Close a connection whose headers do not arrive, which uvicorn keeps open for ever."""

    late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Start the clock."""
        super().connection_made(transport)
        self.late = self.loop.call_later(HEADER_SECONDS, transport.close)

    def data_received(self, data: bytes) -> None:
        """Stop the clock when the headers are complete, and start it with the next request."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE and self.late:
            self.late.cancel()
            self.late = None
        elif self.conn.their_state is h11.IDLE and not self.late:
            self.late = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        if self.late:
            self.late.cancel()
        super().connection_lost(exc)


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
    with listen(settings.host, settings.port) as listener:
        from pneumonia.serving.page import mount_page  # Gradio is slow to import

        app = create_app(settings)
        app.state.batcher.predictor = load(settings.model)
        mount_page(app, app.state.batcher, settings.max_upload_mb)
        logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
        logging.getLogger("pneumonia").setLevel(logging.INFO)
        config = uvicorn.Config(
            app, log_config=None, log_level="info", access_log=False, server_header=False, ws="none", http=Protocol,
            timeout_graceful_shutdown=1,
        )  # fmt: skip
        logging.getLogger("pneumonia").info("listening on %s, port %d; Ctrl+C ends it", settings.host, settings.port)
        gc.freeze()  # what was loaded stays; `Guard` need not look through it for what is left of requests
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """Listen before the model is loaded, which takes seconds; who connects meanwhile waits.

    Raises:
        InputError: the port is taken or reserved, or the host is not an address of this machine.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
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
