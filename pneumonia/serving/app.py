"""Build the service: an API with its documentation and a page around it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.routing import Route

from pneumonia.serving.batcher import Service
from pneumonia.serving.guard import Guard
from pneumonia.serving.observer import Metrics, Observer
from pneumonia.serving.routes import add_routes
from pneumonia.serving.schemas import refuse_http, refuse_values
from pneumonia.serving.settings import Settings


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
