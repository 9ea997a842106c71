"""Enforce the limits of the API: key, size, concurrency and time of a request."""

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

from pneumonia.serving.problems import refuse

logging.getLogger("python_multipart").setLevel(logging.ERROR)  # a malformed form is the sender's business
API = "/v1/"
STALL_SECONDS = 5  # without a byte of a body; the slowest line delivers some
PROBES = ("/healthz", "/readyz")  # for whoever operates the service; they reveal nothing


def find_route(routes: Sequence[Route], scope: Scope) -> tuple[Match, Route | None]:
    """Return the route of a request, and whether it matches in full or all but the method."""
    found = [(route.matches(scope)[0], route) for route in routes]
    match, route = max(found, key=lambda pair: pair[0].value)
    return match, route if match is not Match.NONE else None


class Guard:
    """ASGI middleware that refuses requests beyond the limits. Without the key only probes are answered.

    The other limits apply below /v1/ and to every POST. What the page posts may be longer: see `gate`.

    Args:
        app: to protect.
        routes: of the API. An app mounted at / never sees a request below /v1/ or with a wrong method.
        is_ready: whether a model is loaded.
        key: required from callers; empty for none.
        max_bytes: largest request body.
        max_in_flight: most concurrent requests.
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
        if not _is_limited(scope):
            return await self.app(scope, receive, send)
        self.in_flight += 1
        try:
            await self._pass_on(scope, receive, send)
        finally:
            self.in_flight -= 1

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and answer 503 when its time is up."""
        started, deadline = False, asyncio.timeout(self.timeout_seconds)

        async def note_start(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            async with deadline:
                await self.app(scope, self._count(scope, receive), note_start)
        except TimeoutError:
            if started or not deadline.expired():
                raise
            detail = f"No answer within {self.timeout_seconds:g} seconds."
            await refuse(503, detail, {"Retry-After": "5"})(scope, receive, send)

    def _find_problem(self, scope: Scope) -> JSONResponse | None:
        headers, path = Headers(scope=scope), scope["path"]
        match, route = find_route(self.routes, scope)
        if self.key and path not in PROBES and not self._has_key(headers):
            # A browser then asks for user name and password: any name, and the key.
            scheme = "Bearer" if path.startswith(API) else "Basic"
            return refuse(401, "The API key is missing or wrong.", {"WWW-Authenticate": f'{scheme} realm="pneumonia"'})
        if match is Match.PARTIAL and route:
            allowed = ", ".join(sorted(route.methods or ()))
            return refuse(405, f"Allowed methods: {allowed}.", {"Allow": allowed})
        if not _is_limited(scope):
            return None
        if match is Match.NONE and path.startswith(API):
            return refuse(404, "No such path; /openapi.json lists all operations.")
        return self._find_overload(headers.get("content-length", "") if path.startswith(API) else "")

    def _find_overload(self, length: str) -> JSONResponse | None:
        if not self.is_ready():
            return refuse(503, "The model is not loaded yet.", {"Retry-After": "5"})
        if self.in_flight >= self.max_in_flight:
            return refuse(429, f"{self.max_in_flight} requests are in progress.", {"Retry-After": "1"})
        if length.isdecimal() and int(length[:20]) > self.max_bytes:
            return refuse(413, self._describe_limit())
        return None

    def _describe_limit(self) -> str:
        return f"The request body exceeds {self.max_bytes / 2**20:g} MiB."

    def _has_key(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        keys = [headers.get("x-api-key", "").encode("latin-1")]
        if scheme.lower() == "bearer":
            keys.append(given.strip().encode("latin-1"))
        elif scheme.lower() == "basic":
            with suppress(ValueError):
                keys.append(base64.b64decode(given.encode("latin-1")).partition(b":")[2])
        return any([hmac.compare_digest(key, self.key) for key in keys])

    def _count(self, scope: Scope, receive: Receive) -> Receive:
        """Return a `receive` that raises 413 or 408 once the body exceeds the limit or stalls, whatever it declares."""
        size, more, limited = 0, True, scope["path"].startswith(API)

        async def count() -> Message:
            nonlocal size, more
            try:
                message = await asyncio.wait_for(receive(), STALL_SECONDS if more else None)
            except TimeoutError:
                raise HTTPException(408, f"No data for {STALL_SECONDS} seconds.", {"Connection": "close"}) from None
            more = message.get("more_body", False)
            size += len(message.get("body", b""))
            if limited and size > self.max_bytes:
                raise HTTPException(413, self._describe_limit())
            return message

        return count


def _is_limited(scope: Scope) -> bool:
    return scope["path"].startswith(API) or scope["method"] == "POST"
