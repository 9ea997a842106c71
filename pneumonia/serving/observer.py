"""Keep account of requests: a line in the log, metrics for Prometheus. Nothing that a client sent is in them."""

import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pneumonia.inference.predictor import Answer
from pneumonia.serving.batcher import Reply, Service
from pneumonia.serving.guard import API, find_route
from pneumonia.serving.schemas import refuse

LOG = logging.getLogger("pneumonia")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
GONE = 499  # nginx's status where the client closed the connection; nobody receives it


class Metrics(Collector):
    """What Prometheus may ask of one app.

    Attributes:
        requests: answered, by route and status.
        seconds: from the first header of a request to the end of its answer, by route.
        images: by outcome: answered, novel or refused.
    """

    def __init__(self, service: Service) -> None:
        self.service, self.registry = service, CollectorRegistry()
        self.requests = Counter("pneumonia_requests", "Requests.", ["route", "status"], registry=self.registry)
        self.seconds = Histogram("pneumonia_request_seconds", "Duration.", ["route"], registry=self.registry)
        self.images = Counter("pneumonia_images", "Images.", ["outcome"], registry=self.registry)
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def collect(self) -> Iterator[Metric]:
        """Yield what the service knows by itself."""
        if predictor := self.service.predictor:
            yield InfoMetricFamily("pneumonia_model", "That answers.", {"version": Path(predictor.name).name})
        yield CounterMetricFamily("pneumonia_reloads", "Changes of the model.", self.service.reloads)
        yield CounterMetricFamily("pneumonia_batches", "Passes of images through a model.", self.service.batches)

    def count_images(self, reply: Reply) -> None:
        """Count the images of a request."""
        for said in reply.answers:
            outcome = ("novel" if said.novel else "answered") if isinstance(said, Answer) else "refused"
            self.images.labels(outcome).inc()

    def write(self) -> bytes:
        """Return all of it as Prometheus reads it."""
        return generate_latest(self.registry)


class Observer:
    """ASGI middleware that keeps account, and answers where something unexpected happened. To be the outermost."""

    def __init__(self, app: ASGIApp, *, routes: Sequence[Route], metrics: Metrics) -> None:
        """Tell requests apart by `routes`; all others are one."""
        self.app, self.routes, self.metrics = app, routes, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and say how it went."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        status, start, state = 0, time.perf_counter(), scope.setdefault("state", {})

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status, headers = message["status"], MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                if scope["path"].startswith(API):
                    headers["Cache-Control"] = "no-store"
            await send(message)

        try:
            await self.app(scope, receive, note)
        except ClientDisconnect:
            pass
        except Exception:
            LOG.exception("an unexpected error")
            if not status:
                await refuse(500, "An unexpected error; the log of the service says more.")(scope, receive, note)
        finally:
            seconds, status = time.perf_counter() - start, status or GONE
            route = getattr(find_route(self.routes, scope)[1], "path", "other")
            method = scope["method"] if scope["method"] in METHODS else "other"
            self.metrics.requests.labels(route, status).inc()
            self.metrics.seconds.labels(route).observe(seconds)
            images = state.get("images", 0)
            quiet = route == "other" and status < 400  # the page's own files
            level = logging.DEBUG if quiet else logging.INFO
            LOG.log(level, "%s %s %d in %.0f ms, %d image(s)", method, route, status, 1000 * seconds, images)
