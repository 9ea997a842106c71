"""Every request leaves one line in the log and a count, and nothing that the client sent."""

import logging
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from fastapi.testclient import TestClient
from numpy.random import default_rng
from pictures import encode
from PIL import Image
from services import HEAD, Build, Serve, attach, check_problem, connected, listening, post, wait_until
from uploads import JPEGS, PART, PNG

from pneumonia.inference.predictor import Predictor


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


def test_a_client_that_disconnects_midway_leaves_nothing_but_a_line(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with listening(build(max_in_flight=1)) as url:
        for sent in (HEAD, HEAD + PART, HEAD + PART[:50], HEAD + PART + PART + bytes(2_000_000)):
            caplog.clear()
            with connected(url) as connection:
                connection.sendall(sent)
                time.sleep(0.05)
            wait_until(lambda: "POST /v1/predict 499" in caplog.text or "POST /v1/predict 422" in caplog.text)
            assert "Traceback" not in caplog.text and not list(tmp_path.iterdir())
        assert requests.post(f"{url}/v1/predict", files=attach(PNG), timeout=90).status_code == 200


def test_an_unexpected_error_is_in_the_log_and_not_in_the_response(
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
    assert post(client, PNG)


def test_responses_are_neither_cached_nor_sniffed_nor_readable_from_other_sites(client: TestClient):
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


def test_metrics_count_requests_images_and_batches(serve: Serve):
    with serve() as client:
        post(client, *JPEGS[:3], b"none")
        post(client, encode(Image.fromarray(default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8))))
        client.post("/v1/predict", files=attach(b"none"))
        client.get("/nowhere")
        response = client.get("/metrics")
    found = dict(line.rsplit(" ", 1) for line in response.text.splitlines() if line[0] != "#")
    assert response.headers["content-type"].startswith("text/plain; version=")
    assert found['pneumonia_requests_total{route="/v1/predict",status="200"}'] == "2.0"
    assert found['pneumonia_requests_total{route="/v1/predict",status="422"}'] == "1.0"
    assert found['pneumonia_requests_total{route="other",status="404"}'] == "1.0"
    assert found['pneumonia_request_seconds_count{route="/v1/predict"}'] == "3.0"
    images = {name: float(found.get(f'pneumonia_images_total{{outcome="{name}"}}', 0))
              for name in ("answered", "novel", "refused")}  # fmt: skip
    assert images["refused"] == 2 and images["novel"] + images["answered"] == 4 and images["novel"] >= 1
    assert found["pneumonia_batches_total"] == "2.0" and found["pneumonia_reloads_total"] == "0.0"
    assert found['pneumonia_model_info{version="1"}'] == "1.0"


def test_two_apps_count_for_themselves(serve: Serve, client: TestClient):
    post(client, PNG)
    with serve() as other:
        assert "/v1/predict" not in other.get("/metrics").text
