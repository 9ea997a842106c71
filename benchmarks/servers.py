"""Start a server, and load it with many clients that cost next to nothing."""

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
    """Return a free port."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        return free.getsockname()[1]


@contextmanager
def serving(command: Sequence[str], ready: str, cwd: Path = Path(), **environment: str) -> Iterator[psutil.Process]:
    """Run a server for the duration of the block, which starts when the URL `ready` returns HTTP 200.

    Raises:
        RuntimeError: it exited, or was not ready within two minutes; the message holds its output.
    """
    with (
        tempfile.TemporaryFile("w+") as output,
        subprocess.Popen(command, cwd=cwd, env=clean_environment() | environment, stdout=output, stderr=output,
                         start_new_session=True) as process,
    ):  # fmt: skip
        try:
            deadline = time.monotonic() + 120
            while not _answers(ready):
                if process.poll() is not None or time.monotonic() > deadline:
                    output.seek(0)
                    raise RuntimeError(f"`{' '.join(command)}` is not ready:\n{output.read()}")
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
    """Stop a server and its children: SIGTERM, and SIGKILL after ten seconds."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(10)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            return


def encode_upload(content: bytes) -> tuple[str, bytes]:
    """Return the content type and body of a form with one image."""
    head = '--image\r\nContent-Disposition: form-data; name="files"; filename="image.jpeg"\r\nContent-Type: image/jpeg'
    return "multipart/form-data; boundary=image", head.encode() + b"\r\n\r\n" + content + b"\r\n--image--\r\n"


def encode_table(content: bytes) -> tuple[str, bytes]:
    """Return the content type and body of a table with one image, as MLflow's server expects it."""
    table = {"columns": ["image"], "data": [[base64.b64encode(content).decode()]]}
    return "application/json", json.dumps({"dataframe_split": table}).encode()


def write_request(path: str, kind: str, body: bytes) -> bytes:
    """Return a complete HTTP request."""
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def ask_together(port: int, requests: list[bytes], seconds: float) -> list[float | None]:
    """Send requests from CLIENTS clients for some seconds; return the seconds of each, None for a failed one."""
    deadline, rest = time.perf_counter() + seconds, itertools.cycle(requests)

    async def ask() -> list[float | None]:
        took: list[float | None] = []
        while time.perf_counter() < deadline:
            try:  # keep the connection; after an error open another
                async with connecting(port) as (reader, writer):
                    while (start := time.perf_counter()) < deadline:
                        writer.write(next(rest))
                        async with asyncio.timeout(30):
                            ok = await read_status(reader) == 200
                        took.append(time.perf_counter() - start if ok else None)
            except (OSError, EOFError, ValueError):  # TimeoutError and a malformed response among them
                took.append(None)
                await asyncio.sleep(0.1)
        return took

    return [one for client in await asyncio.gather(*(ask() for _ in range(CLIENTS))) for one in client]


@asynccontextmanager
async def connecting(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open a connection, and close it in any case."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def read_status(reader: asyncio.StreamReader) -> int:
    """Read a response with Content-Length and return its status."""
    status, *head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().splitlines()
    (length,) = (line.partition(":")[2] for line in head if line.startswith("content-length:"))
    await reader.readexactly(int(length))
    return int(status.split()[1])
