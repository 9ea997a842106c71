"""Measure the service under hostile uploads: `python -m benchmarks.hostile FIGURE.png MODEL` where MODEL can be served.

Each form of `forms` is sent in a loop by as many clients as the service accepts, beside a few honest ones.
"""

import argparse
import asyncio
import itertools
import multiprocessing
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import psutil
from matplotlib.figure import Figure
from numpy.random import default_rng
from PIL import Image

from benchmarks.forms import FORMS, save
from benchmarks.servers import HOST, connecting, encode_upload, find_port, read_status, serving, write_request
from benchmarks.serving import SERVE, list_family, measure_memory
from pneumonia.sources.phantom import draw_chest, expose

HONEST, HOSTILE, SECONDS = 4, 28, 8.0  # clients, and how long they send; 32 requests may be in progress
MEMORY, PATIENCE = 1.5, 2.0  # GB and seconds that no form may exceed
PIECE = 2**18  # bytes that a client writes at once
CANCELLED, PROBED = 5, 500  # every how many requests one is cancelled, and memory is noted


@dataclass
class Course:
    """What was seen of a service under one form of upload.

    Attributes:
        form: what was uploaded.
        clock: seconds since the start of the attack, of each measurement of the memory.
        memory: resident memory of all its processes at these times, in GB.
        honest: seconds of each request of an honest client; infinite for one that was not answered.
        health: seconds of each health check.
        hostile: how often the hostile uploads got each status.
        stop: seconds from SIGTERM to the end of the process, under attack.
    """

    form: str
    clock: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    honest: list[float] = field(default_factory=list)
    health: list[float] = field(default_factory=list)
    hostile: Counter[str] = field(default_factory=Counter)
    stop: float = np.inf

    @property
    def slowest(self) -> float:
        """Return the 95th percentile of the honest requests."""
        return float(np.quantile(self.honest, 0.95, method="higher"))

    @property
    def passed(self) -> bool:
        """Return whether every requirement is met."""
        return max(self.memory) < MEMORY and max(self.slowest, max(self.health), self.stop) < PATIENCE

    def describe(self) -> str:
        """Return a row of the table."""
        statuses = ", ".join(f"{count} x {status}" for status, count in self.hostile.most_common(3))
        return (
            f"| {self.form} | {max(self.memory):.2f} | {self.slowest:.2f} | {max(self.health):.2f} | {self.stop:.2f} "
            f"| {statuses} |{'' if self.passed else ' FAILED'}"
        )


async def ask(port: int, request: bytes) -> int:
    """Send a request in pieces on a connection of its own and return the status."""
    async with asyncio.timeout(60), connecting(port) as (reader, writer):
        for place in range(0, len(request), PIECE):
            writer.write(request[place : place + PIECE])
            await writer.drain()
        return await read_status(reader)


def harm(port: int, request: bytes, parent: Connection) -> None:
    """Send a request from HOSTILE clients until this process is ended; tell the parent the statuses when it asks."""
    answers = Counter[str]()

    async def repeat() -> None:
        while True:
            try:
                answers[str(await ask(port, request))] += 1
            except (OSError, EOFError, ValueError):
                answers["cut off"] += 1
                await asyncio.sleep(0.05)

    async def repeat_together() -> None:
        asyncio.get_running_loop().add_reader(parent.fileno(), lambda: parent.recv() or parent.send(answers.copy()))
        await asyncio.gather(*(repeat() for _ in range(HOSTILE)))

    asyncio.run(repeat_together())


async def attack(course: Course, server: psutil.Process, port: int, hostile: bytes, honest: bytes) -> None:
    """Send hostile and honest requests, then stop the server while the hostile ones go on."""

    async def time_each(request: bytes, took: list[float], pause: float) -> None:
        while True:
            before = time.perf_counter()
            try:
                status = await ask(port, request)
                took.append(time.perf_counter() - before if status == 200 else np.inf)
            except (OSError, EOFError, ValueError):
                took.append(np.inf)
            await asyncio.sleep(pause)

    async def watch() -> None:
        start = time.perf_counter()
        while True:
            course.clock.append(time.perf_counter() - start)
            course.memory.append(measure_memory(server))
            await asyncio.sleep(0.1)

    # In a process of their own, so that what the hostile clients cost is not taken for the service's delay.
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    clients = multiprocessing.get_context("spawn").Process(target=harm, args=(port, hostile, theirs))
    clients.start()
    probe = f"GET /healthz HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
    asking = [time_each(honest, course.honest, 0.05) for _ in range(HONEST)] + [time_each(probe, course.health, 0.2)]
    with suppress(TimeoutError):
        async with asyncio.timeout(SECONDS):
            await asyncio.gather(*asking, watch())
    ours.send(None)
    course.hostile = ours.recv()
    before = time.perf_counter()
    server.terminate()
    await asyncio.to_thread(server.wait, 60)
    course.stop = time.perf_counter() - before
    clients.kill()
    clients.join()


@contextmanager
def serve(model: str) -> Iterator[tuple[psutil.Process, int]]:
    """Run the service and yield its process and port."""
    port = find_port()
    ready = f"http://{HOST}:{port}/readyz"
    with serving(SERVE, ready, PNEUMONIA_MODEL=model, PNEUMONIA_PORT=str(port)) as server:
        yield server, port


async def ask_often(server: psutil.Process, port: int, request: bytes, times: int) -> list[tuple[float, int]]:
    """Send requests, some of which are cancelled midway; return memory in GB and open files every PROBED requests."""
    numbers, seen = iter(range(times)), list[tuple[float, int]]()

    async def send() -> None:
        for number in numbers:
            if number % PROBED == 0:
                seen.append((measure_memory(server), sum(one.num_fds() for one in list_family(server))))
            if number % CANCELLED:
                assert await ask(port, request) == 200
                continue
            async with connecting(port) as (_, writer):  # cut off within the body, or before the answer
                writer.write(request[:-1000] if number % 2 else request)
                await writer.drain()

    await asyncio.gather(*(send() for _ in range(16)))
    await asyncio.sleep(1)
    return [*seen, (measure_memory(server), sum(one.num_fds() for one in list_family(server)))]


def draw(courses: list[Course], path: Path) -> None:
    """Draw the memory over time, a panel for each form."""
    columns = 4
    figure = Figure((12, 2.2 * -(-len(courses) // columns)), layout="constrained")
    panels = np.atleast_1d(figure.subplots(-(-len(courses) // columns), columns, sharex=True, sharey=True)).ravel()
    for panel, course in itertools.zip_longest(panels, courses):
        if course is None:
            panel.axis("off")
            continue
        panel.plot(course.clock, course.memory)
        panel.axhline(MEMORY, color="tab:red", linestyle="--", linewidth=1)
        panel.set_title(course.form, fontsize=9)
        panel.set_ylim(0, 1.1 * max(MEMORY, *course.memory))
    figure.supxlabel("seconds of the attack")
    figure.supylabel("resident memory of all processes, GB")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("figure", type=Path)
    parser.add_argument("model")
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--form", choices=FORMS, action="append", help="one form only; all by default")
    given = parser.parse_args()
    image = Image.fromarray(expose(default_rng(1), draw_chest(default_rng(1), default_rng(1), (970, 1300), "")))
    honest, courses = write_request("/v1/predict", *encode_upload(save(image, "jpeg"))), list[Course]()
    print("| upload | peak GB | honest p95, s | slowest health check, s | SIGTERM to exit, s | answers |")
    print("|---|---|---|---|---|---|", flush=True)
    for form in given.form or FORMS:
        hostile = write_request("/v1/predict", *encode_upload(FORMS[form]()))
        with serve(given.model) as (server, port):
            asyncio.run(ask_often(server, port, honest, 32))
            courses.append(Course(form))
            asyncio.run(attack(courses[-1], server, port, hostile, honest))
        print(courses[-1].describe(), flush=True)
    draw(courses, given.figure)
    with serve(given.model) as (server, port):
        for memory, files in asyncio.run(ask_often(server, port, honest, given.requests)):
            print(f"{memory:.3f} GB, {files} open files", flush=True)


if __name__ == "__main__":
    main()
