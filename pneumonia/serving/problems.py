"""Error responses of the API as problem details (RFC 9457)."""

from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

MEDIA_TYPE = "application/problem+json"
PROBLEMS = {
    401: "The API key is missing or wrong.",
    413: "The request body exceeds the limit.",
    415: "The request is not multipart/form-data.",
    422: "The form holds no file, too many files or something else, or none of its files is a usable image.",
    429: "Too many concurrent requests; try again.",
    503: "No model is loaded yet, or it did not answer in time; try again.",
}


class Problem(BaseModel):
    """An error, see RFC 9457. `errors` holds the reason for refusing each file, in the order given."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[str] | None = None


def refuse(
    status: int, detail: str, headers: dict[str, str] | None = None, errors: list[str] | None = None
) -> JSONResponse:
    """Return an error response."""
    problem = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, errors=errors)
    return JSONResponse(problem.model_dump(exclude_none=True), status, headers, MEDIA_TYPE)


async def refuse_http(request: Request, error: Exception) -> JSONResponse:
    """Turn an HTTPException into problem details."""
    assert isinstance(error, HTTPException)
    return refuse(error.status_code, error.detail, dict(error.headers or {}))


async def refuse_values(request: Request, error: Exception) -> JSONResponse:
    """Turn an invalid parameter into problem details, without repeating its value."""
    assert isinstance(error, RequestValidationError)
    return refuse(422, "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()))


def document(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI description of error responses."""
    content = {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}
    return {status: {"description": PROBLEMS[status], "content": content} for status in statuses}
