"""Routes of the API: predictions, the model, health and counts."""

import asyncio
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response, Security
from fastapi.responses import HTMLResponse, PlainTextResponse
from fastapi.security import APIKeyHeader, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST

from pneumonia.inference.predictor import Answer
from pneumonia.serving import schemas as schema
from pneumonia.serving.batcher import Service
from pneumonia.serving.observer import Metrics
from pneumonia.serving.uploads import read_files


def add_routes(app: FastAPI, service: Service, metrics: Metrics, max_files: int, secured: bool) -> None:
    """Give an app its routes.

    Args:
        app: gets them.
        service: answers.
        metrics: counts.
        max_files: of a request.
        secured: whether callers have to know a key; it is asked for by `Guard`, here it is documented.
    """
    schemes = [APIKeyHeader(name="X-API-Key", auto_error=False), HTTPBearer(auto_error=False)]
    key: dict[str, Any] = {"dependencies": [Security(scheme) for scheme in schemes]} if secured else {}
    unknown = (401,) if secured else ()

    @app.post(
        "/v1/predict", response_model=schema.Prediction, response_model_exclude_none=True, **key,
        responses=schema.document(*unknown, 413, 415, 422, 429, 503), openapi_extra=schema.document_form(max_files),
    )  # fmt: skip
    async def predict(request: Request, heatmap: bool = False) -> Any:
        """Answer for JPEG, PNG and DICOM images: curl -F files=@a.jpeg -F files=@b.dcm http://127.0.0.1:8000/v1/predict.

        Among usable images a file that is none has an error in its place; where there is none, the answer is 422.
        """
        contents = await read_files(request, max_files)
        request.state.images = len(contents)
        reply = await service.answer(contents, heatmap)
        metrics.count_images(reply)
        if not any(isinstance(said, Answer) for said in reply.answers):
            return schema.refuse(422, "No file is a usable image.", errors=[str(said) for said in reply.answers])
        return await asyncio.to_thread(schema.write_reply, reply)

    @app.get("/v1/model", **key, responses=schema.document(*unknown, 429, 503))
    async def model() -> schema.ModelDetails:
        """Describe the model that answers."""
        assert service.predictor
        return schema.ModelDetails(**schema.describe(service.predictor))

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Say that the process lives."""
        return {"status": "ok"}

    @app.get("/readyz", responses=schema.document(503))
    async def readyz() -> dict[str, str]:
        """Say whether there is a model."""
        if service.predictor is None:
            raise HTTPException(503, "The model is not loaded yet.", {"Retry-After": "5"})
        return {"status": "ok"}

    @app.get("/metrics", **key, responses=schema.document(*unknown), response_class=PlainTextResponse)
    async def measure() -> Response:
        """Count requests and images, for Prometheus."""
        return Response(metrics.write(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(schema.list_operations(app.openapi()))
