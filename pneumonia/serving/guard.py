"""Enforce the limits of the service: host, key, size, concurrency and time of a request."""

import asyncio
import base64
import ctypes
import gc
import hmac
import ipaddress
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pneumonia.serving.problems import refuse

logging.getLogger("python_multipart").setLevel(logging.ERROR)  # a malformed form is the sender's business
TRIM = getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)  # of glibc
API = "/v1/"
STALL_SECONDS = 5  # without a byte of a body; the slowest line delivers some
PROBES = ("/healthz", "/readyz")  # for whoever operates the service; they reveal nothing


def find_route(routes: Sequence[Route], scope: Scope) -> tuple[Match, Route | None]:
    """Return the route of a request, and whether it matches in full or all but the method."""
    found = [(route.matches(scope)[0], route) for route in routes]
    match, route = max(found, key=lambda pair: pair[0].value)
    return match, route if match is not Match.NONE else None


@dataclass(eq=False)
class _Upload:
    """A request with a body: its time, why it ends if that is up, and its bytes as declared and as received so far."""

    deadline: asyncio.Timeout
    reason: str
    declared: int
    size: int = 0
    complete: bool = False


class Guard:
    """ASGI middleware that refuses requests beyond the limits. Without the key only probes are answered.

    The limits apply below /v1/ and to every POST. A request counts as in progress once its body is complete: uploads
    that wait for their sender take no place from others, and memory only for what has arrived.

    Args:
        app: to protect.
        routes: of the API. An app mounted at / never sees a request below /v1/ or with a wrong method.
        is_ready: whether a model is loaded.
        hosts: names in the header Host, with * for any part; localhost and addresses are always allowed.
        key: required from callers; empty for none.
        max_bytes: largest request body.
        max_held_bytes: largest sum of the bodies of all requests; beyond it the largest one is refused.
        max_in_flight: most requests in progress.
        timeout_seconds: from the headers of a request, over its body, to the end of its answer.
    """

    def __init__(
        self, app: ASGIApp, *, routes: Sequence[Route], is_ready: Callable[[], bool], hosts: Sequence[str], key: str,
        max_bytes: int, max_held_bytes: int, max_in_flight: int, timeout_seconds: float,
    ) -> None:  # fmt: skip
        self.app, self.routes, self.is_ready, self.hosts, self.key = app, routes, is_ready, hosts, key.encode()
        self.max_bytes, self.max_held_bytes = max_bytes, max(max_bytes, max_held_bytes)
        self.max_in_flight, self.timeout_seconds = max_in_flight, timeout_seconds
        self.too_many = f"{max_in_flight} requests are in progress."
        self.too_large = f"The request body exceeds {max_bytes / 2**20:g} MiB."
        self.too_much = f"The requests in progress exceed {self.max_held_bytes / 2**20:g} MiB."
        self.released = 0
        self.uploads: dict[_Upload, None] = {}  # in the order of their arrival

    @property
    def in_flight(self) -> int:
        """Return how many requests with a complete body are in progress."""
        return sum(upload.complete for upload in self.uploads)

    @property
    def held(self) -> int:
        """Return the bytes of all bodies."""
        return sum(upload.size for upload in self.uploads)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if problem := self._find_problem(scope):
            return await problem(scope, receive, send)
        await (self._pass_on if _is_limited(scope) else self.app)(scope, receive, send)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and answer 503 when its time is up."""
        started, deadline = False, asyncio.timeout(self.timeout_seconds)
        reason, length = f"No answer within {self.timeout_seconds:g} seconds.", _read_length(Headers(scope=scope))
        upload = _Upload(deadline, reason, length)

        async def note_start(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            with self._holding(upload):
                async with deadline:
                    await self.app(scope, self._count(upload, receive), note_start)
        except TimeoutError:
            if started or not deadline.expired():
                raise
            await refuse(503, upload.reason, {"Retry-After": "5"})(scope, receive, send)

    @contextmanager
    def _holding(self, upload: _Upload) -> Iterator[None]:
        self.uploads[upload] = None
        try:
            yield
        finally:
            self.uploads.pop(upload, None)
            self.released += upload.size
            # Errors hold bodies in circles, which Python collects when they are many, not when they are large; the C
            # library keeps what is free.
            if self.released > self.max_held_bytes:
                self.released = 0
                gc.collect()
                TRIM(0)

    def _find_problem(self, scope: Scope) -> JSONResponse | None:
        headers, path = Headers(scope=scope), scope["path"]
        match, route = find_route(self.routes, scope)
        if not self._knows(headers.get("host", "")):
            return refuse(400, "The service has another name; its operator lists all in PNEUMONIA_HOSTS.")
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
        return self._find_overload(_read_length(headers))

    def _find_overload(self, length: int) -> JSONResponse | None:
        if not self.is_ready():
            return refuse(503, "The model is not loaded yet.", {"Retry-After": "5"})
        if self.in_flight >= self.max_in_flight:
            return refuse(429, self.too_many, {"Retry-After": "1"})
        if length > self.max_bytes:
            return refuse(413, self.too_large)
        largest = max((upload.declared for upload in self.uploads), default=0)
        if self.held + length > self.max_held_bytes and length >= largest:
            return refuse(503, self.too_much, {"Retry-After": "5"})
        return None

    def _knows(self, host: str) -> bool:
        """Return whether a host is ours. An address always is: another site can only point a name of its own at us."""
        name = re.sub(r":\d*$", "", host).strip("[]").lower()
        with suppress(ValueError):
            return bool(ipaddress.ip_address(name))
        return any(fnmatchcase(name, known) for known in ("localhost", *self.hosts))

    def _has_key(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        keys = [headers.get("x-api-key", "").encode("latin-1")]
        if scheme.lower() == "bearer":
            keys.append(given.strip().encode("latin-1"))
        elif scheme.lower() == "basic":
            with suppress(ValueError):
                keys.append(base64.b64decode(given.encode("latin-1")).partition(b":")[2])
        return any([hmac.compare_digest(key, self.key) for key in keys])

    def _count(self, upload: _Upload, receive: Receive) -> Receive:
        """Return a `receive` that raises 413, 408 or 429 for a body that is too large, stalls or comes in a crowd."""

        async def count() -> Message:
            try:
                # Python 3.11's wait_for forgets a cancellation when something arrives at the same time.
                async with asyncio.timeout(None if upload.complete else STALL_SECONDS):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"No data for {STALL_SECONDS} seconds.", {"Connection": "close"}) from None
            upload.size += len(message.get("body", b""))
            upload.declared = max(upload.declared, upload.size)
            if upload.size > self.max_bytes:
                raise HTTPException(413, self.too_large)
            self._make_room()
            if not upload.complete and not message.get("more_body", False):
                if self.in_flight >= self.max_in_flight:
                    raise HTTPException(429, self.too_many, {"Retry-After": "1"})
                upload.complete = True
            return message

        return count

    def _make_room(self) -> None:
        """End the largest requests, of equal ones the latest, until all bodies together keep their limit."""
        while self.held > self.max_held_bytes:
            largest = max(reversed(self.uploads), key=lambda upload: upload.declared)
            self.uploads.pop(largest)
            if not largest.deadline.expired():
                largest.reason = self.too_much
                largest.deadline.reschedule(0)


def _read_length(headers: Headers) -> int:
    length = headers.get("content-length", "")
    return int(length[:20]) if length.isdecimal() else 0


def _is_limited(scope: Scope) -> bool:
    return scope["path"].startswith(API) or scope["method"] == "POST"
