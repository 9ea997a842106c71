"""Build the service: an API with its documentation, limits, log and metrics."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Route

from pneumonia.serving.batcher import Batcher
from pneumonia.serving.guard import Guard
from pneumonia.serving.metrics import Metrics
from pneumonia.serving.observer import Observer
from pneumonia.serving.problems import refuse_http, refuse_values
from pneumonia.serving.routes import add_routes
from pneumonia.serving.settings import Settings


def create_app(settings: Settings) -> FastAPI:
    """Return the app. Its `state.batcher` loads the model at startup unless it holds one already."""
    batcher = Batcher(settings.model, settings.reload_seconds)
    metrics, key = Metrics(batcher), settings.api_key.get_secret_value()

    @asynccontextmanager
    async def run(app: FastAPI) -> AsyncIterator[None]:
        async with batcher.running():
            yield

    app = FastAPI(
        title="Pneumonia classifier", version="1", lifespan=run, redirect_slashes=False, docs_url=None, redoc_url=None,
        servers=[{"url": "."}],  # relative to openapi.json, wherever a proxy mounts it
        description="Scores paediatric chest radiographs for pneumonia. Not a medical device.",
        exception_handlers={HTTPException: refuse_http, RequestValidationError: refuse_values},
    )  # fmt: skip
    app.state.batcher = batcher
    add_routes(app, batcher, metrics, settings.max_files, secured=bool(key))
    routes = [route for route in app.routes if isinstance(route, Route)]
    app.add_middleware(
        Guard, routes=routes, is_ready=lambda: batcher.predictor is not None, hosts=settings.known_hosts, key=key,
        max_bytes=settings.max_upload_mb * 2**20, max_held_bytes=settings.max_held_mb * 2**20,
        max_in_flight=settings.max_in_flight, timeout_seconds=settings.timeout_seconds,
    )  # fmt: skip
    app.add_middleware(Observer, routes=routes, metrics=metrics)
    return app
