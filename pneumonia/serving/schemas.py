"""Shapes of what the API says, and its documentation."""

import html
from base64 import b64encode
from http import HTTPStatus
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

from fastapi.exceptions import RequestValidationError
from PIL import Image
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from pneumonia.core.dataset import Pixels
from pneumonia.core.params import Share
from pneumonia.inference.heatmaps import Maps, overlay
from pneumonia.inference.predictor import Answer, Predictor
from pneumonia.registry.versions import MODEL_NAME
from pneumonia.serving.batcher import Reply

PROBLEM = "application/problem+json"
PROBLEMS = {
    401: "The API key is missing or wrong.",
    413: "The request is larger than the limit.",
    415: "The request is no multipart/form-data.",
    422: "No form with 1 up to the limit of files in the field `files`, or none of them is a usable image.",
    429: "Too many requests are being answered; try again.",
    503: "There is no model yet, or it did not answer in time; try again.",
}


class Problem(BaseModel):
    """Why there is no answer, see RFC 9457; `errors` says of each file, in the order given, why it is refused."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[str] | None = None


def refuse(
    status: int, detail: str, headers: dict[str, str] | None = None, errors: list[str] | None = None
) -> JSONResponse:
    """Return a response that says why there is no answer."""
    problem = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, errors=errors)
    return JSONResponse(problem.model_dump(exclude_none=True), status, headers, PROBLEM)


async def refuse_http(request: Request, error: Exception) -> JSONResponse:
    """Handle an error that has a status."""
    assert isinstance(error, HTTPException)
    return refuse(error.status_code, error.detail, dict(error.headers or {}))


async def refuse_values(request: Request, error: Exception) -> JSONResponse:
    """Handle a parameter that is out of its range; the value is not repeated."""
    assert isinstance(error, RequestValidationError)
    return refuse(422, "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()))


class Model(BaseModel):
    """The model that answers; `notice` is a warning that belongs to every answer, empty for a model of real images."""

    version: str
    threshold: Share
    classes: Annotated[list[str], Field(min_length=2, max_length=2)]  # FastAPI documents a tuple as OpenAPI 3.0 did
    notice: str


class ModelDetails(Model):
    """What more there is to say of it; `card` is its model card in Markdown."""

    name: str
    rule: str
    temperature: float
    image_size: int
    card: str


class Scored(BaseModel):
    """What is said of an image. Where it is `novel`, it does not look like a chest radiograph and the rest means nothing."""

    probability: Share
    decision: str
    novelty: float
    novel: bool
    heatmap: Annotated[str | None, Field(description="PNG as data URI, where asked for")] = None


class Refused(BaseModel):
    """Why a file is no usable image."""

    error: str


class Prediction(BaseModel):
    """What one model says of images, in the order in which they were given."""

    model: Model
    images: list[Scored | Refused]


def describe(predictor: Predictor) -> dict[str, Any]:
    """Return the values of a `ModelDetails`."""
    # Of a path only the name: where things lie is nobody's business.
    known = predictor.point.model_dump() | {"version": Path(predictor.name).name, "name": MODEL_NAME}
    return known | {"notice": predictor.notice, "card": predictor.card}


def draw(image: Pixels, heatmap: Maps) -> str:
    """Return an image under its heat map as the data URI of a PNG."""
    buffer = BytesIO()
    Image.fromarray(overlay(image, heatmap)).save(buffer, "PNG")
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"


def write_reply(reply: Reply) -> Prediction:
    """Return what a model said, with heat maps drawn."""
    images: list[Scored | Refused] = []
    for pixels, said, heatmap in zip(reply.images, reply.answers, reply.heatmaps, strict=True):
        if pixels is None or not isinstance(said, Answer):
            images.append(Refused(error=str(said)))
        else:
            images.append(Scored(**vars(said), heatmap=None if heatmap is None else draw(pixels, heatmap)))
    return Prediction(model=Model(**describe(reply.predictor)), images=images)


def list_operations(api: dict[str, Any]) -> str:
    """Return the API's documentation as a page that loads nothing from anywhere."""
    info, lines = api["info"], []
    for path, methods in api["paths"].items():
        for method, said in methods.items():
            lines += [f"<h2><code>{method.upper()} {path}</code></h2><p>{html.escape(said['description'])}</p><ul>"]
            lines += [f"<li>{p['in']} <code>{p['name']}</code>: {p['schema']}" for p in said.get("parameters", [])]
            lines += [f"<li>{code}: {html.escape(r['description'])}" for code, r in said["responses"].items()]
            lines += ["</ul>"]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{info['title']}</title><body><h1>{info['title']}</h1>"
        f"<p>{html.escape(info['description'])}</p><p>In full, for tools: <a href=openapi.json>openapi.json</a></p>"
        f"{''.join(lines)}</body></html>"
    )


def document(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Return what OpenAPI is told of answers that are problems."""
    content = {PROBLEM: {"schema": Problem.model_json_schema()}}
    return {code: {"description": PROBLEMS[code], "content": content} for code in codes}


def document_form(max_files: int) -> dict[str, Any]:
    """Return what OpenAPI is told of a form with files, which are read without FastAPI: it puts large ones on disk."""
    files = {"type": "array", "minItems": 1, "maxItems": max_files, "items": {"type": "string", "format": "binary"}}
    form = {"type": "object", "properties": {"files": files}, "required": ["files"], "additionalProperties": False}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}}}
