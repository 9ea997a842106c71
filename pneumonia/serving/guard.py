"""Refuse a request that is too large, too slow, one too many or without the key, as problem details (RFC 9457)."""

import asyncio
import base64
import hmac
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pneumonia.serving.schemas import refuse

logging.getLogger("python_multipart").setLevel(logging.ERROR)  # what is wrong with a form is the sender's business
API = "/v1/"
PROBES = ("/healthz", "/readyz")  # of whoever runs the service, and tell nothing of it


def find_route(routes: Sequence[Route], scope: Scope) -> tuple[Match, Route | None]:
    """Return whether a request means a route, in full or with a method that the route does not know, and which."""
    found = [(route.matches(scope)[0], route) for route in routes]
    match, route = max(found, key=lambda pair: pair[0].value)
    return match, route if match is not Match.NONE else None


class Guard:
    """ASGI middleware that lets through what is within the limits. Without the key nothing but probes is answered.

    The other limits are those of /v1/: what else there is reads no body, or has limits of its own as the page has.

    Args:
        app: what is behind it.
        routes: of the API. What another app at / answers is not asked where one of them or nothing is meant.
        is_ready: whether there is a model.
        key: that a caller has to know; empty for none.
        max_bytes: of the body of a request.
        max_in_flight: requests at a time.
        timeout_seconds: from the headers of a request, over its body, to the end of its answer.
    """

    def __init__(
        self, app: ASGIApp, *, routes: Sequence[Route], is_ready: Callable[[], bool], key: str, max_bytes: int,
        max_in_flight: int, timeout_seconds: float,
    ) -> None:  # fmt: skip
        self.app, self.routes, self.is_ready, self.key = app, routes, is_ready, key.encode()
        self.max_bytes, self.max_in_flight, self.timeout_seconds = max_bytes, max_in_flight, timeout_seconds
        self.in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if problem := self._find_problem(scope):
            return await problem(scope, receive, send)
        if not scope["path"].startswith(API):
            return await self.app(scope, receive, send)
        started = False

        async def note(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        self.in_flight += 1
        deadline = asyncio.timeout(self.timeout_seconds)
        try:
            async with deadline:
                await self.app(scope, self._count(receive), note)
        except TimeoutError:
            if started or not deadline.expired():
                raise
            detail = f"No answer within {self.timeout_seconds:g} seconds."
            await refuse(503, detail, {"Retry-After": "5"})(scope, receive, send)
        finally:
            self.in_flight -= 1

    def _find_problem(self, scope: Scope) -> JSONResponse | None:
        headers, path = Headers(scope=scope), scope["path"]
        length = headers.get("content-length", "")
        match, route = find_route(self.routes, scope)
        if self.key and path not in PROBES and not self._knows_key(headers):
            # A browser asks for user and password, any and the key, where it shows the page.
            scheme = "Bearer" if path.startswith(API) else "Basic"
            return refuse(401, "The API key is missing or wrong.", {"WWW-Authenticate": f'{scheme} realm="pneumonia"'})
        if match is Match.PARTIAL and route:
            allowed = ", ".join(sorted(route.methods or ()))
            return refuse(405, f"Allowed here: {allowed}.", {"Allow": allowed})
        if path.startswith(API):
            if match is Match.NONE:
                return refuse(404, "There is nothing here; /openapi.json tells where there is something.")
            if not self.is_ready():
                return refuse(503, "The model is not loaded yet.", {"Retry-After": "5"})
            if self.in_flight >= self.max_in_flight:
                detail = f"{self.max_in_flight} requests are being answered."
                return refuse(429, detail, {"Retry-After": "1"})
            if length.isdecimal() and int(length[:20]) > self.max_bytes:
                return refuse(413, self._describe_size())
        return None

    def _describe_size(self) -> str:
        return f"A request may have {self.max_bytes / 2**20:g} MiB."

    def _knows_key(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        known = [headers.get("x-api-key", "").encode("latin-1")]
        if scheme.lower() == "bearer":
            known.append(given.strip().encode("latin-1"))
        elif scheme.lower() == "basic":
            with suppress(ValueError):
                known.append(base64.b64decode(given.encode("latin-1")).partition(b":")[2])
        return any([hmac.compare_digest(key, self.key) for key in known])

    def _count(self, receive: Receive) -> Receive:
        """Return a `receive` that ends in status 413 as soon as the body is larger, whatever it was said to be."""
        size = 0

        async def count() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.max_bytes:
                raise HTTPException(413, self._describe_size())
            return message

        return count
