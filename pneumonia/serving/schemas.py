"""Shapes of the API's requests and responses."""

from base64 import b64encode
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

from PIL import Image
from pydantic import BaseModel, Field

from pneumonia.core.dataset import Pixels
from pneumonia.core.params import Share
from pneumonia.inference.heatmaps import Maps, overlay
from pneumonia.inference.predictor import Answer, Predictor
from pneumonia.registry.versions import MODEL_NAME
from pneumonia.serving.batcher import Reply


class Model(BaseModel):
    """The model that answered. `notice` is a warning to show with every answer; empty for a model of real images."""

    version: str
    threshold: Share
    classes: Annotated[list[str], Field(min_length=2, max_length=2)]  # FastAPI documents a tuple as OpenAPI 3.0 did
    notice: str


class ModelDetails(Model):
    """A model in full; `card` is its model card in Markdown."""

    name: str
    rule: str
    temperature: float
    image_size: int
    card: str


class Scored(BaseModel):
    """Scores of an image. A `novel` one does not look like a chest radiograph, and its other values mean nothing."""

    probability: Share
    decision: str
    novelty: float
    novel: bool
    heatmap: Annotated[str | None, Field(description="PNG as data URI, if requested")] = None


class Refused(BaseModel):
    """Why a file is not a usable image."""

    error: str


class Prediction(BaseModel):
    """Results of one model for the images of a request, in the order given."""

    model: Model
    images: list[Scored | Refused]


def describe_model(predictor: Predictor) -> dict[str, Any]:
    """Return the fields of `ModelDetails`."""
    # Of a path only the name: the folders of this machine are nobody's business.
    known = predictor.point.model_dump() | {"version": Path(predictor.name).name, "name": MODEL_NAME}
    return known | {"notice": predictor.notice, "card": predictor.card}


def describe_reply(reply: Reply) -> Prediction:
    """Return the response to a request, its heat maps drawn."""
    images: list[Scored | Refused] = []
    for pixels, answer, heatmap in zip(reply.images, reply.answers, reply.heatmaps, strict=True):
        if pixels is None or not isinstance(answer, Answer):
            images.append(Refused(error=str(answer)))
        else:
            images.append(Scored(**vars(answer), heatmap=None if heatmap is None else draw_heatmap(pixels, heatmap)))
    return Prediction(model=Model(**describe_model(reply.predictor)), images=images)


def draw_heatmap(image: Pixels, heatmap: Maps) -> str:
    """Return an image (side, side) under its heat map (side, side), 0 to 1, as the data URI of a PNG."""
    buffer = BytesIO()
    Image.fromarray(overlay(image, heatmap)).save(buffer, "PNG")
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"


def document_form(max_files: int) -> dict[str, Any]:
    """Return the OpenAPI description of the form, which `uploads` reads: FastAPI would spool large files to disk."""
    files = {"type": "array", "minItems": 1, "maxItems": max_files, "items": {"type": "string", "format": "binary"}}
    form = {"type": "object", "properties": {"files": files}, "required": ["files"], "additionalProperties": False}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}}}
