"""Over HTTP an image is told what the predictor says of it, or why not; nothing that is sent breaks, stays or shows."""

import asyncio
import base64
import io
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import requests
import schemathesis
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from numpy.random import default_rng
from PIL import Image
from projects import ROOT, clean_environment
from pydantic import Secret
from schemathesis.engine import from_schema
from schemathesis.engine.events import FatalError, NonFatalError, ScenarioFinished
from schemathesis.python.asgi import shutdown_lifespans
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from uploads import DICOM, JPEGS, MULTIPART, PART, PNG, make_bodies, make_files, save

from benchmarks.servers import find_port
from pneumonia.cli import serve
from pneumonia.core.errors import InputError
from pneumonia.inference.heatmaps import overlay
from pneumonia.inference.predictor import Predictor
from pneumonia.registry.load import load_predictor
from pneumonia.registry.versions import MODEL_NAME, _digest, download_version, get_version
from pneumonia.serving.app import create_app
from pneumonia.serving.settings import Settings
from pneumonia.tracking.connection import connect

KEY = "geheim-0123456789"
NAME = "Roe^Jane 2019-01-31.jpeg"
Serve = Callable[..., AbstractContextManager[TestClient]]
Form = list[tuple[str, tuple[str, bytes]]]


def attach(*contents: bytes) -> Form:
    return [("files", (NAME, content)) for content in contents]


@pytest.fixture(scope="module", autouse=True)
def project(once: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Work in a copy of a project with champion 1 and version 2, which says something else of every image."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith(("MLFLOW_TRACKING", "PNEUMONIA_")):
                patch.delenv(name)
        project = tmp_path_factory.mktemp("serve") / "project"
        patch.chdir(shutil.copytree(once, project, symlinks=True))
        connect()
        first = get_version("1")
        other = Path(shutil.copytree(download_version(first), project.with_name("other")))
        point = other / "artifacts/operating_point.json"
        point.write_text(json.dumps(json.loads(point.read_text()) | {"temperature": 30.0, "notice": "other"}))
        tags = {"digests": json.dumps(_digest(other))}
        mlflow.MlflowClient().create_model_version(MODEL_NAME, str(other), first.run_id, tags)
        yield project
        mlflow.set_tracking_uri(None)  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def predictors(project: Path) -> dict[str, Predictor]:
    predictors = {name: load_predictor(name) for name in "12"}
    image = np.zeros((1, 32, 32), np.uint8)
    for predictor in predictors.values():  # TensorFlow keeps code that it generates as a temporary file
        predictor.predict(image)
        predictor.explain(image)
    return predictors


@pytest.fixture(scope="module")
def build(predictors: dict[str, Predictor]) -> Callable[..., FastAPI]:
    """Return a function that makes an app with the champion, which is loaded once."""

    def build(**settings: Any) -> FastAPI:
        app = create_app(Settings.model_validate({"reload_seconds": 86400} | settings))
        app.state.service.predictor = predictors["1"]
        return app

    return build


@pytest.fixture(scope="module")
def serving(build: Callable[..., FastAPI]) -> Serve:
    """Return a function that gives a client of a running app."""
    return lambda **settings: TestClient(build(**settings), raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client(serving: Serve) -> Iterator[TestClient]:
    with serving() as client:
        yield client


@pytest.fixture
def slow(predictors: dict[str, Predictor], monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Keep the model busy until the event is set."""
    done, predict = threading.Event(), predictors["1"].predict

    def wait(images: Any) -> Any:
        assert done.wait(90)
        return predict(images)

    monkeypatch.setattr(predictors["1"], "predict", wait)
    return done


@contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """Serve as `main` does, with a real server."""
    port = find_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, access_log=False, ws="none"))
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


def count_asked(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list that grows by one with every image that waits for the model."""
    asked, ask = [], app.state.service._ask
    monkeypatch.setattr(app.state.service, "_ask", lambda *image: (asked.append(0), ask(*image))[1])
    return asked


def wait_for(condition: Callable[[], Any], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def say(predictor: Predictor, content: bytes) -> dict[str, Any]:
    return vars(predictor.predict(predictor.read_image(content)[None])[0])


def ask(client: TestClient, *contents: bytes, **parameters: Any) -> dict[str, Any]:
    response = client.post("/v1/predict", files=attach(*contents), params=parameters)
    assert response.status_code == 200, response.text
    return response.json()


def check_problem(response: Any, status: int, detail: str = "") -> dict[str, Any]:
    """Assert that a response is problem details, and return them."""
    problem = response.json()
    assert (response.status_code, problem["status"], problem["type"]) == (status, status, "about:blank"), problem
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["title"] and detail in problem["detail"], problem
    assert set(problem) <= {"type", "title", "status", "detail", "errors"}
    return problem


# What is answered.


@pytest.mark.parametrize("content", [JPEGS[0], PNG, DICOM], ids=["jpeg", "png", "dicom"])
def test_a_image_is_told_what_the_predictor_says_of_it(
    client: TestClient, predictors: dict[str, Predictor], content: bytes
):
    (image,) = ask(client, content)["images"]
    assert image == pytest.approx(say(predictors["1"], content), abs=1e-6)


def test_answers_come_in_the_order_in_which_images_were_given(client: TestClient, predictors: dict[str, Predictor]):
    given = [JPEGS[n] for n in (3, 0, 5, 1, 4, 2)]
    said = [image["probability"] for image in ask(client, *given)["images"]]
    assert said == pytest.approx([say(predictors["1"], content)["probability"] for content in given], abs=1e-6)
    assert len({round(probability, 5) for probability in said}) == len(said)


def test_a_image_is_told_the_same_alone_and_among_others(client: TestClient):
    (alone,) = ask(client, JPEGS[2])["images"]
    assert ask(client, *JPEGS, *JPEGS)["images"][8] == pytest.approx(alone, abs=1e-6)


def test_every_answer_says_which_model_it_is_of_and_its_notice(client: TestClient):
    known = {"version": "1", "threshold": 0.5, "classes": ["NORMAL", "PNEUMONIA"]}
    assert ask(client, JPEGS[0])["model"] == known | {"notice": "Synthetic radiographs: no clinical meaning."}


def test_a_heat_map_comes_as_a_picture_where_it_is_asked_for(client: TestClient, predictors: dict[str, Predictor]):
    first, none = ask(client, JPEGS[0], b"no image", heatmap=True)["images"]
    assert set(none) == {"error"} and "heatmap" not in ask(client, JPEGS[0])["images"][0]
    kind, data = first["heatmap"].split(",")
    image = predictors["1"].read_image(JPEGS[0])
    expected = overlay(image, predictors["1"].explain(image[None])[0])
    assert kind == "data:image/png;base64"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), expected)


def test_among_images_a_file_that_is_none_has_an_error_in_its_place(client: TestClient):
    first, second, third = ask(client, b"GIF89a", JPEGS[1], b"")["images"]
    assert (first, third) == ({"error": "not a JPEG, PNG or DICOM file"}, {"error": "empty file"})
    assert second["decision"] in ("NORMAL", "PNEUMONIA")


def test_files_none_of_which_is_a_image_are_refused_with_the_reason_of_each(client: TestClient):
    problem = check_problem(client.post("/v1/predict", files=attach(b"", b"GIF89a")), 422, "No file")
    assert problem["errors"] == ["empty file", "not a JPEG, PNG or DICOM file"]


def test_images_of_many_callers_go_through_the_model_together_and_each_gets_its_own_answer(
    build: Callable[..., FastAPI],
    predictors: dict[str, Predictor],
    slow: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
):
    app = build()
    asked = count_asked(app, monkeypatch)
    with listening(app) as url, ThreadPoolExecutor(24) as callers:

        def call(number: int) -> float:
            response = requests.post(f"{url}/v1/predict", files=attach(JPEGS[number % 6]), timeout=90)
            return response.json()["images"][0]["probability"]

        said = callers.map(call, range(24))
        wait_for(lambda: len(asked) == 24)
        slow.set()
        said = list(said)
    expected = [say(predictors["1"], JPEGS[number % 6])["probability"] for number in range(24)]
    assert said == pytest.approx(expected, abs=1e-6)
    assert app.state.service.batches == 2


def test_the_model_is_described(client: TestClient, predictors: dict[str, Predictor]):
    said = client.get("/v1/model").json()
    point = predictors["1"].point
    assert (said["name"], said["version"], said["rule"], said["image_size"]) == (MODEL_NAME, "1", "fixed", 32)
    assert (said["temperature"], said["threshold"]) == (point.temperature, point.threshold)
    assert said["card"] == predictors["1"].card and "# " in said["card"] and "Synthetic" in said["notice"]


def test_of_a_model_in_a_file_only_the_name_is_told(project: Path, serving: Serve):
    model = project / "reports/../models/finetuned.keras"
    assert model.is_file()
    with serving(model=str(model)) as client:
        app: Any = client.app
        app.state.service.predictor.name, name = str(model), app.state.service.predictor.name
        try:
            assert client.get("/v1/model").json()["version"] == "finetuned.keras"
            assert ask(client, PNG)["model"]["version"] == "finetuned.keras"
            assert 'pneumonia_model_info{version="finetuned.keras"}' in client.get("/metrics").text
        finally:
            app.state.service.predictor.name = name


# Which model answers.


@pytest.fixture
def crown() -> Iterator[Callable[[str], None]]:
    """Return a function that makes a version champion until the test ends."""

    def crown(version: str) -> None:
        mlflow.MlflowClient().set_registered_model_alias(MODEL_NAME, "champion", version)

    yield crown
    crown("1")


def test_a_new_champion_takes_over_while_requests_run_and_every_answer_is_of_one_model(
    build: Callable[..., FastAPI], predictors: dict[str, Predictor], crown: Callable[[str], None]
):
    expected = {name: [say(p, content)["probability"] for content in JPEGS] for name, p in predictors.items()}
    assert min(abs(a - b) for a, b in zip(*expected.values(), strict=True)) > 1e-3
    app = build(reload_seconds=0.2)
    answers: list[Any] = []
    with listening(app) as url:

        def call() -> None:
            while len(answers) < 4000 and (not answers or answers[-1].json()["model"]["version"] == "1"):
                answers.append(requests.post(f"{url}/v1/predict", files=attach(*JPEGS), timeout=90))

        with ThreadPoolExecutor(4) as callers:
            calls = [callers.submit(call) for _ in range(4)]
            wait_for(lambda: len(answers) > 8)
            crown("2")
            for done in calls:
                done.result()
        after = requests.post(f"{url}/v1/predict", files=attach(*JPEGS), timeout=90).json()
        counted = requests.get(f"{url}/metrics", timeout=90).text
    assert {answer.status_code for answer in answers} == {200}
    for answer in [*(answer.json() for answer in answers), after]:
        probabilities = [image["probability"] for image in answer["images"]]
        assert probabilities == pytest.approx(expected[answer["model"]["version"]], abs=1e-6)
    assert after["model"]["version"] == "2" and after["model"]["notice"] == "other"
    assert "pneumonia_reloads_total 1.0" in counted and 'pneumonia_model_info{version="2"} 1.0' in counted


def test_a_new_champion_that_cannot_be_loaded_leaves_the_present_one(
    serving: Serve, project: Path, crown: Callable[[str], None], caplog: pytest.LogCaptureFixture
):
    novelty = project.with_name("other") / "artifacts/novelty.npz"
    novelty.rename(novelty.with_suffix(".away"))
    try:
        with serving(reload_seconds=0.1) as client:
            crown("2")
            wait_for(lambda: caplog.text.count("the model stays as it is") > 1)
            assert ask(client, PNG)["model"]["version"] == "1"
            assert client.get("/readyz").status_code == 200
    finally:
        novelty.with_suffix(".away").rename(novelty)


# Limits.


def call_app(app: FastAPI, messages: Callable[[], Any], **headers: str) -> tuple[int, bytes, int]:
    """Send a request as a server does; return status, body and how many messages the app took."""
    taken, sent = 0, []

    async def receive() -> Any:
        nonlocal taken
        taken += 1
        return messages()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/predict", "raw_path": b"/v1/predict", "query_string": b"",
             "root_path": "", "http_version": "1.1", "scheme": "http", "client": ("127.0.0.1", 1), "state": {},
             "server": ("127.0.0.1", 80),
             "headers": [(n.replace("_", "-").encode(), text.encode()) for n, text in headers.items()]}  # fmt: skip
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], sent[1]["body"], taken


def test_a_body_that_says_it_is_too_large_is_refused_unread(build: Callable[..., FastAPI]):
    status, body, taken = call_app(build(max_upload_mb=1), dict, content_length=str(2**20 + 1))
    assert (status, taken) == (413, 0) and json.loads(body)["detail"] == "A request may have 1 MiB."


def test_a_body_that_does_not_say_that_it_is_too_large_is_read_no_further_than_the_limit(
    build: Callable[..., FastAPI],
):
    start = b'--b\r\nContent-Disposition: form-data; name="files"; filename="x"\r\n\r\n'
    parts = iter([start, *[bytes(2**16)] * 40])
    status, body, taken = call_app(
        build(max_upload_mb=1),
        lambda: {"type": "http.request", "body": next(parts), "more_body": True},
        content_type="multipart/form-data; boundary=b",
    )
    assert (status, taken) == (413, 17) and json.loads(body)["status"] == 413


def test_a_body_that_is_too_large_is_refused_by_the_server_however_it_is_sent(build: Callable[..., FastAPI]):
    with listening(build(max_upload_mb=1)) as url:
        large = attach(bytes(3 * 2**20))
        check_problem(requests.post(f"{url}/v1/predict", files=large, timeout=90), 413, "1 MiB")
        chunks = (bytes(2**16) for _ in range(48))
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        response = requests.post(f"{url}/v1/predict", data=chunks, headers=headers, timeout=90)
        assert response.status_code in (413, 422)  # zeros are no form; whichever is seen first
        assert requests.post(f"{url}/v1/predict", files=attach(PNG), timeout=90).status_code == 200


def test_a_body_just_within_the_limit_is_answered(serving: Serve):
    with serving(max_upload_mb=1) as client:
        filled = PNG + bytes(2**20 - len(PNG) - 300)  # what follows the image is not read
        assert len(ask(client, filled)["images"]) == 1


def test_more_files_than_the_limit_are_refused_and_none_is_looked_at(
    serving: Serve, predictors: dict[str, Predictor], monkeypatch: pytest.MonkeyPatch
):
    with serving(max_files=2) as client:
        assert len(ask(client, *JPEGS[:2])["images"]) == 2
        monkeypatch.setattr(predictors["1"], "try_read", None)
        check_problem(client.post("/v1/predict", files=attach(*JPEGS[:3])), 422, "More than 2 files")


UNUSABLE: dict[str, tuple[int, str, dict[str, Any]]] = {
    "nothing": (415, "multipart/form-data", {}),
    "JSON": (415, "multipart/form-data", {"json": {"files": []}}),
    "a form of text": (415, "multipart/form-data", {"data": {"files": "x"}}),
    "an image without a form": (415, "multipart", {"content": PNG, "headers": {"Content-Type": "image/png"}}),
    "a form without parts": (422, "Expected images", {"content": b"--b--\r\n", "headers": MULTIPART}),
    "an empty form": (422, "Truncated", {"content": b"", "headers": MULTIPART}),
    "another field": (422, "no other field", {"files": [("file", ("x", PNG))]}),
    "another field beside": (422, "no other field", {"files": [*attach(PNG), ("other", ("x", PNG))]}),
    "text beside": (422, "no file", {"files": attach(PNG), "data": {"files": "x"}}),
    "no boundary": (422, "Malformed", {"content": PART, "headers": {"Content-Type": "multipart/form-data"}}),
    "another boundary": (422, "Malformed", {"content": PART.replace(b"--b", b"--c"), "headers": MULTIPART}),
    "no name": (422, "Malformed", {"content": PART.replace(b"name=", b"nome=", 1), "headers": MULTIPART}),
    # The parser keeps the parts that ended and says nothing of the last.
    "no end": (422, "Truncated", {"content": PART + PART, "headers": MULTIPART}),
    "an unknown value": (422, "heatmap", {"files": attach(PNG), "params": {"heatmap": "<b>"}}),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_request_that_is_no_form_with_images_is_refused(client: TestClient, name: str):
    status, detail, request = UNUSABLE[name]
    assert "<b>" not in check_problem(client.post("/v1/predict", **request), status, detail)["detail"]


def test_a_request_too_many_is_told_to_come_back_and_probes_still_answer(
    build: Callable[..., FastAPI], slow: threading.Event, monkeypatch: pytest.MonkeyPatch
):
    app = build(max_in_flight=2)
    asked = count_asked(app, monkeypatch)
    with listening(app) as url, ThreadPoolExecutor(2) as callers:
        post = [callers.submit(requests.post, f"{url}/v1/predict", files=attach(PNG), timeout=90) for _ in range(2)]
        wait_for(lambda: len(asked) == 2)
        refused = requests.post(f"{url}/v1/predict", files=attach(PNG), timeout=20)
        check_problem(refused, 429, "2 requests")
        assert int(refused.headers["Retry-After"]) > 0
        assert [requests.get(f"{url}/{p}", timeout=20).status_code for p in ("healthz", "readyz", "metrics")] == [
            200
        ] * 3
        slow.set()
        assert [waiting.result().status_code for waiting in post] == [200, 200]
        assert requests.post(f"{url}/v1/predict", files=attach(PNG), timeout=90).status_code == 200


def test_an_answer_that_takes_too_long_is_given_up_and_the_next_one_comes(serving: Serve, slow: threading.Event):
    with serving(timeout_seconds=0.3, max_in_flight=1) as client:
        late = client.post("/v1/predict", files=attach(PNG))
        check_problem(late, 503, "within 0.3 seconds")
        assert int(late.headers["Retry-After"]) > 0
        slow.set()
        wait_for(lambda: client.post("/v1/predict", files=attach(PNG)).status_code == 200)


def test_an_upload_that_does_not_come_to_its_end_is_given_up(build: Callable[..., FastAPI]):
    with listening(build(timeout_seconds=0.3)) as url, connected(url) as away:
        away.sendall(HEAD + PART)
        assert away.recv(100).startswith(b"HTTP/1.1 503 ")


def test_without_a_model_the_service_lives_and_is_not_ready():
    client = TestClient(create_app(Settings()))  # which is not started
    assert client.get("/healthz").status_code == 200
    for response in (client.get("/readyz"), client.get("/v1/model"), client.post("/v1/predict", files=attach(PNG))):
        check_problem(response, 503, "not loaded")
        assert int(response.headers["Retry-After"]) > 0
    assert "pneumonia_model_info" not in client.get("/metrics").text


def test_an_app_loads_its_model_when_it_starts():
    with TestClient(create_app(Settings(model="2"))) as client:
        assert client.get("/v1/model").json()["version"] == "2"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/predict", 405), ("POST", "/healthz", 405), ("DELETE", "/metrics", 405), ("GET", "/v1/", 404),
     ("GET", "/v1/predict/", 404), ("GET", "/v1/%2e%2e/etc/passwd", 404)],
)  # fmt: skip
def test_what_there_is_not_is_a_problem_too_also_beside_a_page(
    build: Callable[..., FastAPI], method: str, path: str, status: int
):
    app = build()
    app.mount("/", Starlette(routes=[Route("/{rest:path}", lambda request: PlainTextResponse("page"))]))
    client = TestClient(app)
    assert client.get("/").text == client.get("/else").text == "page"
    response = client.request(method, path)
    assert check_problem(response, status) and ("Allow" in response.headers) == (status == 405)


def test_without_a_page_an_unknown_path_is_a_problem(client: TestClient):
    check_problem(client.get("/etc/passwd"), 404)


def test_an_unexpected_error_is_in_the_log_and_not_in_the_answer(
    client: TestClient, predictors: dict[str, Predictor], monkeypatch: pytest.MonkeyPatch, caplog: Any
):
    def fail(images: Any) -> Any:
        raise RuntimeError("/secret/place.py")

    monkeypatch.setattr(predictors["1"], "predict", fail)
    response = client.post("/v1/predict", files=attach(PNG))
    check_problem(response, 500)
    assert not re.search(r"secret|/|\.py|Traceback|RuntimeError", response.text.replace("application/", ""))
    assert "/secret/place.py" in caplog.text and "Traceback" in caplog.text
    monkeypatch.undo()
    assert ask(client, PNG)


# Who may ask.


@pytest.fixture(scope="module")
def guarded(serving: Serve) -> Iterator[TestClient]:
    with serving(api_key=KEY) as client:
        yield client


def basic(text: str) -> str:
    return f"Basic {base64.b64encode(text.encode()).decode()}"


@pytest.mark.parametrize(
    "headers",
    [{"X-API-Key": KEY}, {"Authorization": f"Bearer {KEY}"}, {"Authorization": f"bearer {KEY}"},
     {"Authorization": basic(f"anyone:{KEY}")}],
)  # fmt: skip
def test_who_knows_the_key_is_answered(guarded: TestClient, headers: dict[str, str]):
    assert guarded.post("/v1/predict", files=attach(PNG), headers=headers).status_code == 200
    assert guarded.get("/docs", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{}, {"X-API-Key": ""}, {"X-API-Key": KEY[:-1]}, {"X-API-Key": KEY + "x"}, {"X-API-Key": "schlüssel".encode()},
     {"Authorization": KEY}, {"Authorization": f"Digest {KEY}"}, {"Authorization": "Basic !"},
     {"Authorization": "Basic"}, {"Authorization": basic(KEY)}, {"Authorization": basic(f"{KEY}:")}],
)  # fmt: skip
def test_who_does_not_know_the_key_is_answered_by_probes_only(guarded: TestClient, headers: dict[str, Any]):
    for path, scheme in {"/v1/model": "Bearer", "/v1/none": "Bearer", "/metrics": "Basic", "/": "Basic"}.items():
        response = guarded.get(path, headers=headers)
        check_problem(response, 401, "API key")
        assert response.headers["WWW-Authenticate"].startswith(f"{scheme} ")
    assert [guarded.get(path, headers=headers).status_code for path in ("/healthz", "/readyz")] == [200, 200]


def test_a_image_without_the_key_is_not_even_read(build: Callable[..., FastAPI]):
    status, _, taken = call_app(build(api_key=KEY), dict, content_length="100")
    assert (status, taken) == (401, 0)


def test_the_key_is_in_the_documentation_where_there_is_one(guarded: TestClient, client: TestClient):
    known = guarded.get("/openapi.json", headers={"X-API-Key": KEY}).json()
    assert set(known["components"]["securitySchemes"]) == {"APIKeyHeader", "HTTPBearer"}
    assert known["paths"]["/v1/predict"]["post"]["security"] == [{"APIKeyHeader": []}, {"HTTPBearer": []}]
    assert "security" not in known["paths"]["/healthz"]["get"] and KEY not in json.dumps(known)
    assert "security" not in client.get("/openapi.json").json()["paths"]["/v1/predict"]["post"]


def test_answers_are_neither_stored_nor_guessed_at_nor_for_pages_from_elsewhere(client: TestClient):
    elsewhere = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    for response in (
        client.get("/v1/model", headers=elsewhere),
        client.options("/v1/predict", headers=elsewhere),
        client.get("/v1/none"),
        client.post("/v1/predict", content=b""),
    ):
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Cache-Control"] == "no-store"
        assert not [name for name in response.headers if name.startswith("access-control")]
    assert client.get("/healthz").headers["X-Content-Type-Options"] == "nosniff"


def test_the_documentation_names_every_operation_and_loads_nothing(client: TestClient):
    page, known = client.get("/docs").text, client.get("/openapi.json").json()["paths"]
    assert set(known) == {"/v1/predict", "/v1/model", "/healthz", "/readyz", "/metrics"}
    assert all(f" {path}</code>" in page for path in known) and "heatmap" in page
    assert not re.search(r"<script|<link|src=|https://|url\(", page)


# What is kept, and what is not.


def test_a_request_leaves_one_line_in_the_log_and_nothing_that_the_client_sent_is_in_it(
    client: TestClient, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    client.post("/v1/predict?secret=1", files=attach(JPEGS[0], PNG, b"secret"), headers={"X-Secret": "secret"})
    client.request("SECRET", "/v1/secret")
    client.get("/secret")
    lines = [record.getMessage() for record in caplog.records if record.name == "pneumonia"]
    spent = r"in \d+ ms"
    expected = [rf"POST /v1/predict 200 {spent}, 3 image\(s\)", rf"other other 404 {spent}, 0 image\(s\)",
                rf"GET other 404 {spent}, 0 image\(s\)"]  # fmt: skip
    assert len(lines) == 3 and all(re.fullmatch(*pair) for pair in zip(expected, lines, strict=True)), lines
    assert not re.search("secret|Roe|Jane|jpeg", "\n".join(lines), re.IGNORECASE)


def test_nothing_uploaded_is_ever_on_disk(client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    opened: list[Any] = []
    sys.addaudithook(lambda event, arguments: opened.append(arguments[0]) if event == "open" and watching else None)
    large, watching = PNG + os.urandom(3 * 2**20), True
    try:
        ask(client, large, DICOM, heatmap=True)
        check_problem(client.post("/v1/predict", files=attach(os.urandom(3 * 2**20), b"")), 422)
        check_problem(client.post("/v1/predict", content=PART * 400, headers=MULTIPART), 422)
        check_problem(client.post("/v1/predict", files=attach(*[large] * 11)), 413)
    finally:
        watching = False
    written = [name for name in opened if str(tmp_path) in str(name) or str(name).startswith(tempfile.gettempdir())]
    assert not written and not list(tmp_path.iterdir())


HEAD = (
    b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    b"Content-Length: 3000000\r\n\r\n"
)


@contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=90) as connection:
        yield connection


def test_a_client_that_goes_away_midway_leaves_nothing_but_a_line(
    build: Callable[..., FastAPI], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with listening(build(max_in_flight=1)) as url:
        for sent in (HEAD, HEAD + PART, HEAD + PART[:50], HEAD + PART + PART + bytes(2_000_000)):
            caplog.clear()
            with connected(url) as away:
                away.sendall(sent)
                time.sleep(0.05)
            wait_for(lambda: "POST /v1/predict 499" in caplog.text or "POST /v1/predict 422" in caplog.text)
            assert "Traceback" not in caplog.text and not list(tmp_path.iterdir())
        assert requests.post(f"{url}/v1/predict", files=attach(PNG), timeout=90).status_code == 200


def test_metrics_count_requests_images_and_batches(serving: Serve):
    with serving() as client:
        ask(client, *JPEGS[:3], b"none")
        ask(client, save(Image.fromarray(default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8))))
        client.post("/v1/predict", files=attach(b"none"))
        client.get("/nowhere")
        response = client.get("/metrics")
    said = dict(line.rsplit(" ", 1) for line in response.text.splitlines() if line[0] != "#")
    assert response.headers["content-type"].startswith("text/plain; version=")
    assert said['pneumonia_requests_total{route="/v1/predict",status="200"}'] == "2.0"
    assert said['pneumonia_requests_total{route="/v1/predict",status="422"}'] == "1.0"
    assert said['pneumonia_requests_total{route="other",status="404"}'] == "1.0"
    assert said['pneumonia_request_seconds_count{route="/v1/predict"}'] == "3.0"
    images = {name: float(said.get(f'pneumonia_images_total{{outcome="{name}"}}', 0)) for name in
             ("answered", "novel", "refused")}  # fmt: skip
    assert images["refused"] == 2 and images["novel"] + images["answered"] == 4 and images["novel"] >= 1
    assert said["pneumonia_batches_total"] == "2.0" and said["pneumonia_reloads_total"] == "0.0"
    assert said['pneumonia_model_info{version="1"}'] == "1.0"


def test_two_apps_count_for_themselves(serving: Serve, client: TestClient):
    ask(client, PNG)
    with serving() as other:
        assert "/v1/predict" not in other.get("/metrics").text


# Whatever is sent.


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of what Pillow reads all the same
def test_no_upload_breaks_the_service_or_learns_where_it_runs(client: TestClient, tmp_path: Path, monkeypatch: Any):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    sent: list[dict[str, Any]] = [{"files": attach(content)} for content in make_files()]
    sent += [{"content": body, "headers": dict(headers)} for headers, body in make_bodies()]
    seen: dict[int, int] = {}
    for number, request in enumerate(sent):
        response = client.post("/v1/predict", **request)
        seen[response.status_code] = seen.get(response.status_code, 0) + 1
        assert response.status_code in (200, 413, 415, 422), (number, response.text)
        if response.status_code != 200:
            check_problem(response, response.status_code)
        body = response.text.replace("multipart/form-data", "")
        assert not re.search(r"/|\.py|Traceback|0x[0-9a-f]{4}|passwd|Error", body), (number, body)
    assert len(sent) >= 200 and seen[422] > 120, seen
    assert ask(client, PNG) and not list(tmp_path.iterdir())


# A file that nobody drew is no image: what is valid as a form is refused nevertheless. A form with another field is
# refused as every other form that is none.
SCHEMATHESIS = {
    "seed": 1, "headers": {"X-API-Key": KEY}, "generation": {"max-examples": 30, "database": "none"},
    "checks": {"positive_data_acceptance": {"enabled": False},
               "negative_data_rejection": {"expected-statuses": [401, 404, 405, 413, 415, 422]}},
}  # fmt: skip


def test_the_service_does_what_its_documentation_says(build: Callable[..., FastAPI]):
    config = schemathesis.Config.from_dict(SCHEMATHESIS)
    known = schemathesis.openapi.from_asgi(
        "/openapi.json", build(api_key=KEY), config=config, headers={"X-API-Key": KEY}
    )
    cases, wrong = 0, []
    try:
        for event in from_schema(known).execute():
            if isinstance(event, ScenarioFinished):
                cases += len(event.recorder.cases)
                checks = [check for found in event.recorder.checks.values() for check in found]
                wrong += [
                    f"{event.label}: {check.name}: {check.failure_info}" for check in checks if check.failure_info
                ]
            if isinstance(event, NonFatalError):
                wrong.append(f"{event.label}: {event.value}")
            assert not isinstance(event, FatalError), event.exception
    finally:
        shutdown_lifespans()
    assert not wrong and cases > 100, "\n".join(wrong)


# How it is started.


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"PNEUMONIA_{name.upper()}", raising=False)
    return monkeypatch


def test_settings_come_from_the_environment_and_flags_go_before(environment: pytest.MonkeyPatch):
    environment.setenv("PNEUMONIA_PORT", "8001")
    environment.setenv("PNEUMONIA_MODEL", "")  # as Compose leaves a variable that was not set
    environment.setenv("PNEUMONIA_MAX_FILES", "3")
    settings = Settings.read(port=None, host="::1")
    assert (settings.port, settings.model, settings.max_files, settings.host) == (8001, "champion", 3, "::1")
    assert Settings.read(port="8002").port == 8002


def test_the_service_listens_to_its_own_machine_only_unless_told_otherwise(environment: pytest.MonkeyPatch):
    assert Settings.read().host == "127.0.0.1" and not Settings.read().api_key.get_secret_value()


@pytest.mark.parametrize("name", sorted(set(Settings.model_fields) - {"model", "host", "api_key"}))
@pytest.mark.parametrize("value", ["0", "-1", "many", "nan", "inf", "1000000"])
def test_a_setting_out_of_its_bounds_is_named_with_what_was_expected(
    environment: pytest.MonkeyPatch, name: str, value: str
):
    environment.setenv(f"PNEUMONIA_{name.upper()}", value)
    with pytest.raises(InputError) as refused:
        Settings.read()
    assert re.fullmatch(rf"PNEUMONIA_{name.upper()} is '{value}'\.\n  Expected: .+\n  Remedy: .+", str(refused.value))


def test_a_key_that_no_header_can_hold_is_refused_and_not_repeated(environment: pytest.MonkeyPatch):
    environment.setenv("PNEUMONIA_API_KEY", "geheim und lang")
    with pytest.raises(InputError, match="PNEUMONIA_API_KEY cannot be used") as refused:
        Settings.read()
    assert "geheim" not in str(refused.value)
    assert KEY not in repr(Settings(api_key=Secret(KEY)))


@pytest.mark.parametrize("model", ["7", "nobody", "nothing.keras", "alone.keras", "damaged.keras", "2"])
def test_a_model_that_cannot_be_loaded_is_an_error_in_three_parts(
    project: Path, model: str, environment: pytest.MonkeyPatch, tmp_path: Path
):
    other = project.with_name("other")
    shutil.copy(project / "models/finetuned.keras", tmp_path / "alone.keras")
    (tmp_path / "damaged.keras").write_bytes(b"PK")
    named = str(tmp_path / model) if model.endswith("keras") else model
    environment.setattr(sys, "argv", ["serve", "--model", named, "--port", str(find_port())])
    other.rename(tmp_path / "other")
    try:
        with pytest.raises(SystemExit) as ended:
            serve.main()
    finally:
        (tmp_path / "other").rename(other)
    assert re.fullmatch(r"\S[^\n]*\n  Expected: \S.*\n  Remedy: \S.*", str(ended.value)), ended.value


def test_the_command_serves_until_it_is_told_to_stop(project: Path, tmp_path: Path):
    port = find_port()
    command = [sys.executable, "-m", "pneumonia", "serve", "--model", "1", "--port", str(port)]
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(command, cwd=project, env=clean_environment(), stdout=said, stderr=said)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: process.poll() is not None or "Uvicorn running" in (tmp_path / "said").read_text(), 60)
        assert process.poll() is None, (tmp_path / "said").read_text()
        assert requests.get(f"{url}/readyz", timeout=90).status_code == 200
        response = requests.post(f"{url}/v1/predict?secret=1", files=attach(PNG), timeout=90)
        assert response.status_code == 200 and "server" not in response.headers
        assert requests.get(url, timeout=90).headers["content-type"].startswith("text/html")
        check_problem(requests.get(f"{url}/v1/predict", timeout=90), 405)
    finally:
        process.send_signal(signal.SIGINT)
        status = process.wait(90)
    assert status in (0, -signal.SIGINT)
    said = (tmp_path / "said").read_text()
    assert len(re.findall("POST /v1/predict 200", said)) == 1 and not re.search("secret|Roe|Traceback", said), said


def test_make_serve_hands_over_model_and_port_and_no_command():
    (line,) = re.findall("^serve:.*\n\t@(.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    shell = line.replace("$$", "$").replace("python -m", "printf '%s,'")
    given = {"MODEL": "a b; exit 1", "PORT": "8001"}
    for environment, expected in (({}, ""), (given, "--model,a b; exit 1,--port,8001,")):
        done = subprocess.run(["sh", "-c", shell], env={"PATH": os.environ["PATH"]} | environment, capture_output=True)
        assert done.stdout.decode() == f"pneumonia.serve,{expected}"
