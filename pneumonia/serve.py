"""Answer over HTTP for films: an API with its documentation, and a page around it."""

import argparse
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Self

import uvicorn
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import Field, Secret, ValidationError
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.routing import Route

from pneumonia.api import add_routes
from pneumonia.api_schema import refuse_http, refuse_values
from pneumonia.champion import load_predictor
from pneumonia.connection import reaching
from pneumonia.errors import InputError
from pneumonia.limits import Guard
from pneumonia.params import Section
from pneumonia.predictor import Predictor
from pneumonia.request_log import Metrics, Observer
from pneumonia.service import Service


class Settings(Section):
    """How to serve, each from the environment variable PNEUMONIA_ and its name in capitals.

    Attributes:
        model: champion, challenger, the number of a version, or path of a .keras file.
        host: address to listen at; 0.0.0.0 for all.
        port: to listen at.
        reload_seconds: between two looks whether `model` stands for another version.
        max_upload_mb: of the body of a request, in units of 2**20 bytes.
        max_files: of a request.
        max_in_flight: requests at a time; what they uploaded is held in memory.
        timeout_seconds: from the headers of a request, over its upload, to the end of its answer.
        api_key: that callers have to know, printable ASCII; empty for none.
    """

    model: Annotated[str, Field(min_length=1)] = "champion"
    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    reload_seconds: Annotated[float, Field(ge=0.1, le=86400)] = 30
    max_upload_mb: Annotated[int, Field(ge=1, le=1024)] = 32
    max_files: Annotated[int, Field(ge=1, le=64)] = 16
    max_in_flight: Annotated[int, Field(ge=1, le=1024)] = 64
    timeout_seconds: Annotated[float, Field(ge=0.1, le=3600)] = 30
    api_key: Secret[Annotated[str, Field(pattern=r"^[!-~]*$", max_length=256)]] = Secret("")

    @classmethod
    def read(cls, **given: str | None) -> Self:
        """Read the environment; what is `given` and not None goes before, what is empty is not set.

        Raises:
            InputError: one of them cannot be used.
        """
        found = {name: os.environ.get(f"PNEUMONIA_{name.upper()}") for name in cls.model_fields}
        found = {name: value for name, value in (found | {k: v for k, v in given.items() if v}).items() if value}
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0])
            what = f"--{name}" if given.get(name) else f"PNEUMONIA_{name.upper()}"
            value = "cannot be used" if name == "api_key" else f"is {found[name]!r}"
            raise InputError(f"{what} {value}.", expected=first["msg"], remedy="correct it, or leave it out") from None


def create_app(settings: Settings) -> FastAPI:
    """Return the app. Its `state.service` loads the model when the app starts, unless it has one."""
    service = Service(settings.model, settings.reload_seconds)
    metrics, key = Metrics(service), settings.api_key.get_secret_value()

    @asynccontextmanager
    async def run(app: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title="Pneumonia classifier", version="1", lifespan=run, redirect_slashes=False, docs_url=None, redoc_url=None,
        description="Says of chest radiographs of children whether they show pneumonia. Not a medical device.",
        exception_handlers={AnyHTTPException: refuse_http, RequestValidationError: refuse_values},
    )  # fmt: skip
    app.state.service = service
    add_routes(app, service, metrics, settings.max_files, secured=bool(key))
    routes = [route for route in app.routes if isinstance(route, Route)]
    app.add_middleware(
        Guard, routes=routes, is_ready=lambda: service.predictor is not None, key=key,
        max_bytes=settings.max_upload_mb * 2**20, max_in_flight=settings.max_in_flight,
        timeout_seconds=settings.timeout_seconds,
    )  # fmt: skip
    app.add_middleware(Observer, routes=routes, metrics=metrics)
    return app


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


def main() -> None:
    """Serve until a signal ends it."""
    parser = argparse.ArgumentParser(prog="python -m pneumonia.serve", description=__doc__)
    parser.add_argument("--model", help="champion, challenger, a version, or a .keras file")
    parser.add_argument("--host", help="address to listen at; 127.0.0.1 by default")
    parser.add_argument("--port", help="8000 by default")
    try:
        settings = Settings.read(**vars(parser.parse_args()))
        app = create_app(settings)
        app.state.service.predictor = load(settings.model)
    except InputError as error:
        raise SystemExit(str(error)) from None
    from pneumonia.page import mount_page  # Gradio is slow to import

    mount_page(app, app.state.service, settings.max_upload_mb)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("pneumonia").setLevel(logging.INFO)
    uvicorn.run(
        app, host=settings.host, port=settings.port, log_config=None, log_level="info", access_log=False,
        server_header=False, ws="none", timeout_graceful_shutdown=5,
    )  # fmt: skip


if __name__ == "__main__":
    main()
