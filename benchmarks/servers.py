"""Run a server for a while, and ask it with many clients that cost next to nothing."""

import asyncio
import base64
import itertools
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psutil

from benchmarks.pipeline import clean_environment

HOST, CLIENTS = "127.0.0.1", 16


def find_port() -> int:
    """Return a port at which nothing listens."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        return free.getsockname()[1]


@contextmanager
def serving(command: Sequence[str], ready: str, cwd: Path = Path(), **environment: str) -> Iterator[psutil.Process]:
    """Run a server while the block runs, from when the address `ready` answers with HTTP 200.

    Raises:
        RuntimeError: it ended or was not ready within two minutes; says what it printed.
    """
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(command, cwd=cwd, env=clean_environment() | environment, stdout=said, stderr=said,
                         start_new_session=True) as process,
    ):  # fmt: skip
        try:
            deadline = time.monotonic() + 120
            while not _answers(ready):
                if process.poll() is not None or time.monotonic() > deadline:
                    said.seek(0)
                    raise RuntimeError(f"`{' '.join(command)}` is not ready:\n{said.read()}")
                time.sleep(0.1)
            yield psutil.Process(process.pid)
        finally:
            _end(process)


def _answers(address: str) -> bool:
    try:
        with urlopen(address, timeout=5) as answer:
            return answer.status == 200
    except (URLError, OSError):
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a server and what it started: first kindly, after ten seconds not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(10)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            return


def encode_upload(content: bytes) -> tuple[str, bytes]:
    """Return content type and body of a form with one image."""
    head = '--image\r\nContent-Disposition: form-data; name="files"; filename="image.jpeg"\r\nContent-Type: image/jpeg'
    return "multipart/form-data; boundary=image", head.encode() + b"\r\n\r\n" + content + b"\r\n--image--\r\n"


def encode_table(content: bytes) -> tuple[str, bytes]:
    """Return content type and body of a table with one image, as MLflow takes it."""
    table = {"columns": ["image"], "data": [[base64.b64encode(content).decode()]]}
    return "application/json", json.dumps({"dataframe_split": table}).encode()


def write_request(path: str, kind: str, body: bytes) -> bytes:
    """Return a whole HTTP request."""
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def ask_together(port: int, requests: list[bytes], seconds: float) -> list[float | None]:
    """Return the seconds of each request, None for one that failed."""
    deadline, rest = time.perf_counter() + seconds, itertools.cycle(requests)

    async def ask() -> list[float | None]:
        took: list[float | None] = []
        while time.perf_counter() < deadline:
            try:  # a connection is kept; who loses it opens another
                async with connecting(port) as (reader, writer):
                    while (start := time.perf_counter()) < deadline:
                        writer.write(next(rest))
                        async with asyncio.timeout(30):
                            ok = await read_status(reader) == 200
                        took.append(time.perf_counter() - start if ok else None)
            except (OSError, EOFError, ValueError):  # among them TimeoutError, and an answer that is none
                took.append(None)
                await asyncio.sleep(0.1)
        return took

    return [one for client in await asyncio.gather(*(ask() for _ in range(CLIENTS))) for one in client]


@asynccontextmanager
async def connecting(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect, and close the connection in any case."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def read_status(reader: asyncio.StreamReader) -> int:
    """Read an answer with a length, and return its status."""
    status, *head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().splitlines()
    (length,) = (line.partition(":")[2] for line in head if line.startswith("content-length:"))
    await reader.readexactly(int(length))
    return int(status.split()[1])
