"""Log and count every request. The log holds nothing that a client sent."""

import logging
import time
from collections.abc import Sequence

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pneumonia.serving.guard import API, find_route
from pneumonia.serving.metrics import Metrics
from pneumonia.serving.problems import refuse

LOG = logging.getLogger("pneumonia")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
GONE = 499  # nginx's status for a client that closed the connection; nobody receives it


class Observer:
    """Outermost ASGI middleware: log and count requests, and answer 500 after an unexpected error.

    Args:
        app: to wrap.
        routes: by which requests are told apart; all others count as one.
        metrics: to update.
    """

    def __init__(self, app: ASGIApp, *, routes: Sequence[Route], metrics: Metrics) -> None:
        self.app, self.routes, self.metrics = app, routes, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and record its outcome."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        status, start = 0, time.perf_counter()
        scope.setdefault("state", {})

        async def add_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status, headers = message["status"], MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                if scope["path"].startswith(API):
                    headers["Cache-Control"] = "no-store"
            await send(message)

        try:
            await self.app(scope, receive, add_headers)
        except ClientDisconnect:
            pass
        except Exception:
            LOG.exception("unexpected error")
            if not status:
                await refuse(500, "Unexpected error; see the log of the service.")(scope, receive, add_headers)
        finally:
            self._record(scope, status or GONE, time.perf_counter() - start)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(find_route(self.routes, scope)[1], "path", "other")
        method = scope["method"] if scope["method"] in METHODS else "other"
        self.metrics.requests.labels(route, status).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        images = scope["state"].get("images", 0)
        level = logging.DEBUG if route == "other" and status < 400 else logging.INFO  # the page's own files are noise
        LOG.log(level, "%s %s %d in %.0f ms, %d image(s)", method, route, status, 1000 * seconds, images)
