"""Metrics of one app for Prometheus. They hold nothing that a client sent."""

from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from pneumonia.inference.predictor import Answer
from pneumonia.serving.batcher import Batcher, Reply


class Metrics(Collector):
    """Counters of an app, in a registry of its own.

    Attributes:
        requests: requests by route and status.
        seconds: from the headers of a request to the end of its answer, by route.
        images: images by outcome: answered, novel or refused.
    """

    def __init__(self, batcher: Batcher) -> None:
        self.batcher, self.registry = batcher, CollectorRegistry()
        self.requests = Counter("pneumonia_requests", "Requests.", ["route", "status"], registry=self.registry)
        self.seconds = Histogram("pneumonia_request_seconds", "Duration.", ["route"], registry=self.registry)
        self.images = Counter("pneumonia_images", "Images.", ["outcome"], registry=self.registry)
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def collect(self) -> Iterator[Metric]:
        """Yield what the batcher counts itself."""
        if predictor := self.batcher.predictor:
            yield InfoMetricFamily("pneumonia_model", "Current model.", {"version": Path(predictor.name).name})
        yield CounterMetricFamily("pneumonia_reloads", "Changes of the model.", self.batcher.reloads)
        yield CounterMetricFamily("pneumonia_decoders_replaced", "Decoders beyond their limits.", self.batcher.replaced)
        yield CounterMetricFamily("pneumonia_batches", "Forward passes of the model.", self.batcher.batches)

    def count_images(self, reply: Reply) -> None:
        """Count the images of a request by outcome."""
        for answer in reply.answers:
            outcome = ("novel" if answer.novel else "answered") if isinstance(answer, Answer) else "refused"
            self.images.labels(outcome).inc()

    def write(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self.registry)
