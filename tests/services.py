"""Run the service in a test and talk to it."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient

from benchmarks.servers import find_port
from pneumonia.inference.predictor import Predictor

HOST = "radiology.example.org"  # of docs/serving.md
KEY = "geheim-0123456789"
FILE_NAME = "Roe^Jane 2019-01-31.jpeg"
Build = Callable[..., FastAPI]
Serve = Callable[..., AbstractContextManager[TestClient]]
Form = list[tuple[str, tuple[str, bytes]]]
HEAD = (
    b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    b"Content-Length: 3000000\r\n\r\n"
)


def attach(*contents: bytes) -> Form:
    return [("files", (FILE_NAME, content)) for content in contents]


def post(client: TestClient, *contents: bytes, **parameters: Any) -> dict[str, Any]:
    response = client.post("/v1/predict", files=attach(*contents), params=parameters)
    assert response.status_code == 200, response.text
    return response.json()


def predict(predictor: Predictor, content: bytes) -> dict[str, Any]:
    return vars(predictor.predict(predictor.read_image(content)[None])[0])


def check_problem(response: Any, status: int, detail: str = "") -> dict[str, Any]:
    """Assert that a response is problem details, and return them."""
    problem = response.json()
    assert (response.status_code, problem["status"], problem["type"]) == (status, status, "about:blank"), problem
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["title"] and detail in problem["detail"], problem
    assert set(problem) <= {"type", "title", "status", "detail", "errors"}
    return problem


def wait_until(condition: Callable[[], Any], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def listening(app: FastAPI, **options: Any) -> Iterator[str]:
    """Serve an app on a real port, as the command does, and yield its URL."""
    port = find_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, access_log=False, ws="none", **options))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(90)


@contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=90) as connection:
        yield connection


def call_app(app: FastAPI, receive: Callable[[], Any], **headers: str) -> tuple[int, dict[str, Any], int]:
    """Send a request as a server does; return status, JSON body and how many messages the app took."""
    taken, sent = 0, []

    async def count() -> Any:
        nonlocal taken
        taken += 1
        return receive()

    async def send(message: Any) -> None:
        sent.append(message)

    given = {"host": "localhost"} | headers
    scope = {"type": "http", "method": "POST", "path": "/v1/predict", "raw_path": b"/v1/predict", "query_string": b"",
             "root_path": "", "http_version": "1.1", "scheme": "http", "client": ("127.0.0.1", 1), "state": {},
             "server": ("127.0.0.1", 80),
             "headers": [(n.replace("_", "-").encode(), text.encode()) for n, text in given.items()]}  # fmt: skip
    asyncio.run(app(scope, count, send))
    return sent[0]["status"], json.loads(sent[1]["body"]), taken
