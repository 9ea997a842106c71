"""Requests beyond a limit, or without the key, are refused before they cost anything."""

import asyncio
import base64
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
import requests
from fastapi.testclient import TestClient
from services import HEAD, KEY, Build, Serve, attach, call_app, check_problem, connected, listening, post, wait_until
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Send
from uploads import MULTIPART, PART, PNG

from pneumonia.cli import serve as serve_command
from pneumonia.serving import guard
from pneumonia.serving.app import create_app
from pneumonia.serving.guard import Guard
from pneumonia.serving.settings import Settings


def find_guard(app: Any) -> Guard:
    layer = app.middleware_stack
    while not isinstance(layer, Guard):
        layer = layer.app
    return layer


def test_a_body_that_declares_itself_too_large_is_refused_unread(build: Build):
    status, problem, taken = call_app(build(max_upload_mb=1), dict, content_length=str(2**20 + 1))
    assert (status, taken) == (413, 0) and problem["detail"] == "The request body exceeds 1 MiB."


def test_a_body_of_undeclared_length_is_read_no_further_than_the_limit(build: Build):
    start = b'--b\r\nContent-Disposition: form-data; name="files"; filename="x"\r\n\r\n'
    parts = iter([start, *[bytes(2**16)] * 40])
    status, problem, taken = call_app(
        build(max_upload_mb=1),
        lambda: {"type": "http.request", "body": next(parts), "more_body": True},
        content_type="multipart/form-data; boundary=b",
    )
    assert (status, taken) == (413, 17) and problem["status"] == 413


def test_a_real_server_refuses_a_body_that_is_too_large_however_it_is_sent(build: Build):
    with listening(build(max_upload_mb=1)) as url:
        large = attach(bytes(3 * 2**20))
        check_problem(requests.post(f"{url}/v1/predict", files=large, timeout=90), 413, "1 MiB")
        chunks = (bytes(2**16) for _ in range(48))
        response = requests.post(f"{url}/v1/predict", data=chunks, headers=MULTIPART, timeout=90)
        assert response.status_code in (413, 422)  # zeros are no form; whichever is noticed first
        assert requests.post(f"{url}/v1/predict", files=attach(PNG), timeout=90).status_code == 200


def test_a_body_just_within_the_limit_is_answered(serve: Serve):
    with serve(max_upload_mb=1) as client:
        padded = PNG + bytes(2**20 - len(PNG) - 300)  # decoders ignore what follows the image
        assert len(post(client, padded)["images"]) == 1


def test_one_request_too_many_is_told_to_retry_while_probes_still_answer(
    build: Build, busy: threading.Event, count_queued: Callable[[Any], list[Any]]
):
    app = build(max_in_flight=2)
    queued = count_queued(app)
    with listening(app) as url, ThreadPoolExecutor(2) as callers:
        posts = [callers.submit(requests.post, f"{url}/v1/predict", files=attach(PNG), timeout=90) for _ in range(2)]
        wait_until(lambda: len(queued) == 2)
        refused = requests.post(f"{url}/v1/predict", files=attach(PNG), timeout=20)
        check_problem(refused, 429, "2 requests")
        assert int(refused.headers["Retry-After"]) > 0
        for path in ("healthz", "readyz", "metrics"):
            assert requests.get(f"{url}/{path}", timeout=20).status_code == 200
        busy.set()
        assert [waiting.result().status_code for waiting in posts] == [200, 200]
        assert requests.post(f"{url}/v1/predict", files=attach(PNG), timeout=90).status_code == 200


def test_an_answer_that_takes_too_long_is_abandoned_and_the_next_one_comes(serve: Serve, busy: threading.Event):
    with serve(timeout_seconds=0.3, max_in_flight=1) as client:
        late = client.post("/v1/predict", files=attach(PNG))
        check_problem(late, 503, "within 0.3 seconds")
        assert int(late.headers["Retry-After"]) > 0
        busy.set()
        wait_until(lambda: client.post("/v1/predict", files=attach(PNG)).status_code == 200)


def test_an_upload_that_never_ends_is_abandoned(build: Build):
    with listening(build(timeout_seconds=0.3)) as url, connected(url) as connection:
        connection.sendall(HEAD + PART)
        assert connection.recv(100).startswith(b"HTTP/1.1 503 ")


def test_an_upload_that_stalls_is_ended(build: Build, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(guard, "STALL_SECONDS", 0.2)
    with listening(build()) as url, connected(url) as connection:
        connection.sendall(HEAD + PART)
        assert connection.recv(100).startswith(b"HTTP/1.1 408 ")


def test_uploads_that_wait_for_their_sender_take_no_place_from_others(build: Build):
    with listening(build(max_in_flight=2)) as url, ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(connected(url)).sendall(HEAD + PART)
        for _ in range(4):
            assert requests.post(f"{url}/v1/predict", files=attach(PNG), timeout=20).status_code == 200


@pytest.mark.parametrize("complete", [True, False])
def test_all_bodies_together_have_a_limit_beyond_which_the_largest_is_refused(
    build: Build, busy: threading.Event, count_queued: Callable[[Any], list[Any]], complete: bool
):
    app = build(max_upload_mb=2, max_held_mb=2)
    queued = count_queued(app)
    large = PNG + bytes(2**20 * 19 // 10)  # decoders ignore what follows the image
    with listening(app) as url, ThreadPoolExecutor(3) as callers, connected(url) as connection:
        if complete:
            first = callers.submit(requests.post, f"{url}/v1/predict", files=attach(large), timeout=90)
            wait_until(lambda: len(queued) == 1)
        else:
            connection.sendall(HEAD.replace(b"3000000", b"2000000") + PART + large)
            wait_until(lambda: find_guard(app).held > 1_900_000)
        smaller = [attach(PNG + bytes(2**20)), attach(PNG)]
        others = [callers.submit(requests.post, f"{url}/v1/predict", files=form, timeout=90) for form in smaller]
        status = first.result().status_code if complete else int(connection.recv(12)[9:])  # pyright: ignore
        busy.set()
        assert (status, [other.result().status_code for other in others]) == (503, [200, 200])


def test_requests_that_are_cut_off_end_though_their_bytes_keep_coming():
    piece, taken, statuses = 2**16, dict[int, int](), list[int]()
    most = 0

    async def read(scope: Any, receive: Receive, send: Send) -> None:
        nonlocal most
        try:
            while (await receive())["more_body"]:
                taken[id(scope)] = taken.get(id(scope), 0) + piece
                most = max(most, sum(taken.values()))
        finally:
            taken.pop(id(scope), None)
        await PlainTextResponse("read")(scope, receive, send)

    async def upload(to: Guard, wait: int) -> None:
        for _ in range(wait):  # so that they are at different points when one is cut off
            await asyncio.sleep(0)
        left = iter([*[True] * 15, False])

        async def receive() -> Message:
            await asyncio.sleep(0)
            return {"type": "http.request", "body": bytes(piece), "more_body": next(left)}

        async def send(message: Message) -> None:
            statuses.extend([message["status"]] if "status" in message else [])

        await to({"type": "http", "method": "POST", "path": "/v1/predict", "headers": []}, receive, send)

    async def upload_together() -> None:
        routes = [Route("/v1/predict", PlainTextResponse, methods=["POST"])]
        to = Guard(
            read, routes=routes, is_ready=lambda: True, hosts=["*"], key="",
            max_bytes=2**20, max_held_bytes=2**20, max_in_flight=20, timeout_seconds=20,
        )  # fmt: skip
        await asyncio.gather(*(upload(to, number) for number in range(12)))

    asyncio.run(upload_together())
    assert sorted(set(statuses)) == [200, 503]
    assert most <= 2**20 + 12 * piece  # of each what it had in hand


def test_a_body_beyond_the_limit_of_all_is_refused_unread_if_it_is_the_largest(build: Build):
    with (
        listening(app := build(max_upload_mb=2, max_held_mb=2)) as url,
        connected(url) as first,
        connected(url) as second,
    ):
        head = HEAD.replace(b"3000000", b"2000000")
        first.sendall(head + PART + bytes(1_500_000))
        wait_until(lambda: find_guard(app).held > 1_500_000)
        second.sendall(head)
        assert second.recv(12) == b"HTTP/1.1 503"
        assert requests.post(f"{url}/v1/predict", files=attach(PNG), timeout=20).status_code == 200


@pytest.mark.parametrize(("host", "status"), [("localhost", 200), ("127.0.0.1:8000", 200), ("[::1]:8000", 200),
    ("10.0.0.9", 200), ("a.example.org", 200), ("A.EXAMPLE.ORG:443", 200), ("example.org", 400), ("evil.test", 400),
    ("localhost.evil.test", 400), ("", 400)])  # fmt: skip
def test_only_known_names_of_the_service_are_answered(build: Build, host: str, status: int):
    client = TestClient(build(hosts="b.test,*.example.org"))
    assert client.get("/healthz", headers={"Host": host}).status_code == status


@pytest.mark.parametrize(("listens", "status"), [("127.0.0.1", 400), ("::1", 400), ("0.0.0.0", 200)])
def test_a_service_for_this_machine_only_is_called_by_no_other_name_unless_told(listens: str, status: int):
    client = TestClient(create_app(Settings(host=listens)), base_url="http://evil.test")
    assert client.get("/healthz").status_code == status


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET"]
)
def test_a_connection_without_complete_headers_is_closed(build: Build, sent: bytes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(serve_command, "HEADER_SECONDS", 0.3)
    with listening(build(), http=serve_command.Protocol, timeout_keep_alive=1) as url, connected(url) as connection:
        connection.settimeout(4)
        connection.sendall(sent)
        while connection.recv(1000):
            pass
        assert requests.get(f"{url}/healthz", timeout=20).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/predict", 405), ("POST", "/healthz", 405), ("DELETE", "/metrics", 405), ("GET", "/v1/", 404),
     ("GET", "/v1/predict/", 404), ("GET", "/v1/%2e%2e/etc/passwd", 404)],
)  # fmt: skip
def test_an_unknown_path_or_method_is_a_problem_even_beside_a_page(build: Build, method: str, path: str, status: int):
    app = build()
    app.mount("/", Starlette(routes=[Route("/{rest:path}", lambda request: PlainTextResponse("page"))]))
    client = TestClient(app)
    assert client.get("/").text == client.get("/else").text == "page"
    response = client.request(method, path)
    assert check_problem(response, status) and ("Allow" in response.headers) == (status == 405)


def test_without_a_page_an_unknown_path_is_a_problem(client: TestClient):
    check_problem(client.get("/etc/passwd"), 404)


@pytest.fixture(scope="module")
def guarded(serve: Serve) -> Iterator[TestClient]:
    with serve(api_key=KEY) as client:
        yield client


def basic(text: str) -> str:
    return f"Basic {base64.b64encode(text.encode()).decode()}"


@pytest.mark.parametrize(
    "headers",
    [{"X-API-Key": KEY}, {"Authorization": f"Bearer {KEY}"}, {"Authorization": f"bearer {KEY}"},
     {"Authorization": basic(f"anyone:{KEY}")}],
)  # fmt: skip
def test_a_caller_with_the_key_is_answered(guarded: TestClient, headers: dict[str, str]):
    assert guarded.post("/v1/predict", files=attach(PNG), headers=headers).status_code == 200
    assert guarded.get("/docs", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{}, {"X-API-Key": ""}, {"X-API-Key": KEY[:-1]}, {"X-API-Key": KEY + "x"}, {"X-API-Key": "schlüssel".encode()},
     {"Authorization": KEY}, {"Authorization": f"Digest {KEY}"}, {"Authorization": "Basic !"},
     {"Authorization": "Basic"}, {"Authorization": basic(KEY)}, {"Authorization": basic(f"{KEY}:")}],
)  # fmt: skip
def test_a_caller_without_the_key_reaches_nothing_but_the_probes(guarded: TestClient, headers: dict[str, Any]):
    for path, scheme in {"/v1/model": "Bearer", "/v1/none": "Bearer", "/metrics": "Basic", "/": "Basic"}.items():
        response = guarded.get(path, headers=headers)
        check_problem(response, 401, "API key")
        assert response.headers["WWW-Authenticate"].startswith(f"{scheme} ")
    assert [guarded.get(path, headers=headers).status_code for path in ("/healthz", "/readyz")] == [200, 200]


def test_an_upload_without_the_key_is_not_even_read(build: Build):
    status, _, taken = call_app(build(api_key=KEY), dict, content_length="100")
    assert (status, taken) == (401, 0)
