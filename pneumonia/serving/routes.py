"""Routes of the API: predictions, the model, health, metrics and documentation."""

import asyncio
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response, Security
from fastapi.responses import HTMLResponse, PlainTextResponse
from fastapi.security import APIKeyHeader, HTTPBearer
from jinja2 import Template
from prometheus_client import CONTENT_TYPE_LATEST

from pneumonia.inference.predictor import Answer
from pneumonia.serving.batcher import Batcher
from pneumonia.serving.metrics import Metrics
from pneumonia.serving.problems import document, refuse
from pneumonia.serving.schemas import ModelDetails, Prediction, describe_model, describe_reply, document_form
from pneumonia.serving.uploads import read_files

DOCS = Path(__file__).with_name("templates") / "docs.html"  # in place of Swagger UI, which loads its files from a CDN


def add_routes(app: FastAPI, batcher: Batcher, metrics: Metrics, max_files: int, secured: bool) -> None:
    """Add the routes to an app.

    Args:
        app: to extend.
        batcher: scores the images.
        metrics: counts the images.
        max_files: most files per request.
        secured: document that callers need a key; `Guard` checks it.
    """
    schemes = [APIKeyHeader(name="X-API-Key", auto_error=False), HTTPBearer(auto_error=False)]
    key: dict[str, Any] = {"dependencies": [Security(scheme) for scheme in schemes]} if secured else {}
    unknown = (401,) if secured else ()
    docs = Template(DOCS.read_text(), autoescape=True)

    @app.post(
        "/v1/predict", response_model=Prediction, response_model_exclude_none=True, **key,
        responses=document(*unknown, 413, 415, 422, 429, 503), openapi_extra=document_form(max_files),
    )  # fmt: skip
    async def predict(request: Request, heatmap: bool = False) -> Any:
        """Score images (DICOM, JPEG, PNG, TIFF, WebP, BMP): curl -F files=@a.jpeg http://127.0.0.1:8000/v1/predict.

        A file that is not a usable image gets an error in its place; if no file is usable, the status is 422.
        """
        contents = await read_files(request, max_files)
        request.state.images = len(contents)
        reply = await batcher.predict(contents, heatmap)
        metrics.count_images(reply)
        if not any(isinstance(answer, Answer) for answer in reply.answers):
            return refuse(422, "No file is a usable image.", errors=[str(reason) for reason in reply.answers])
        return await asyncio.to_thread(describe_reply, reply)

    @app.get("/v1/model", **key, responses=document(*unknown, 429, 503))
    async def model() -> ModelDetails:
        """Describe the current model."""
        assert batcher.predictor
        return ModelDetails(**describe_model(batcher.predictor))

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Liveness: the process answers."""
        return {"status": "ok"}

    @app.get("/readyz", responses=document(503))
    async def readyz() -> dict[str, str]:
        """Readiness: a model is loaded."""
        if batcher.predictor is None:
            raise HTTPException(503, "The model is not loaded yet.", {"Retry-After": "5"})
        return {"status": "ok"}

    @app.get("/metrics", **key, responses=document(*unknown), response_class=PlainTextResponse)
    async def export_metrics() -> Response:
        """Metrics in the text format of Prometheus."""
        return Response(metrics.write(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/docs", include_in_schema=False)
    async def show_docs() -> HTMLResponse:
        return HTMLResponse(docs.render(app.openapi()))
