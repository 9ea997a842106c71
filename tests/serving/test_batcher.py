"""Concurrent requests share forward passes, and the model follows its alias."""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from fastapi.testclient import TestClient
from pictures import encode
from PIL import Image
from services import Build, Serve, attach, listening, post, predict, wait_until
from uploads import IMAGES, JPEGS, PNG

from pneumonia.images.workers import Decoders
from pneumonia.inference.predictor import Predictor
from pneumonia.serving import batcher as batching
from pneumonia.serving.app import create_app
from pneumonia.serving.batcher import MOST_SCORED, Batcher
from pneumonia.serving.settings import Settings


def test_images_of_concurrent_requests_share_a_batch_and_each_gets_its_own_answer(
    build: Build, predictors: dict[str, Predictor], busy: threading.Event, count_queued: Callable[[Any], list[Any]]
):
    app = build()
    queued = count_queued(app)
    with listening(app) as url, ThreadPoolExecutor(MOST_SCORED + 1) as callers:

        def call(number: int) -> float:
            response = requests.post(f"{url}/v1/predict", files=attach(JPEGS[number % 6]), timeout=90)
            return response.json()["images"][0]["probability"]

        calls = callers.map(call, range(MOST_SCORED + 1))
        wait_until(lambda: len(queued) == MOST_SCORED + 1)
        busy.set()
        found = list(calls)
    expected = [predict(predictors["1"], JPEGS[number % 6])["probability"] for number in range(MOST_SCORED + 1)]
    assert found == pytest.approx(expected, abs=1e-6)
    assert app.state.batcher.batches == 2


def test_large_images_wait_for_each_other_and_nobody_waits_for_them(build: Build, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(batching, "Decoders", Decoders)
    monkeypatch.setattr(batching, "LANES", ((1, 10, 192, 1000), (1, 1, 192, float("inf"))))
    monkeypatch.setattr(batching, "MOST_SLOW", 2)
    small, app = encode(Image.fromarray(IMAGES[0]).resize((30, 30))), build()

    def call(content: bytes) -> int:
        return requests.post(f"{url}/v1/predict", files=attach(content), timeout=90).status_code

    with listening(app) as url, ThreadPoolExecutor(3) as callers:
        lane = app.state.batcher._lanes[1]
        slow = callers.submit(lane.decoders._ask, exec, b"import time; time.sleep(60)")
        large = [callers.submit(call, PNG) for _ in range(2)]
        wait_until(lambda: lane.waiting == 2)
        assert (call(PNG), call(small)) == (503, 200)
        assert not slow.done()
        assert [one.result() for one in large] == [200, 200]


def test_an_app_loads_its_model_at_startup(project: Path):
    with TestClient(create_app(Settings(model="2")), base_url="http://localhost") as client:
        assert client.get("/v1/model").json()["version"] == "2"


def test_a_new_champion_takes_over_while_requests_run_and_every_answer_comes_from_one_model(
    build: Build, predictors: dict[str, Predictor], promote: Callable[[str], None]
):
    expected = {name: [predict(p, content)["probability"] for content in JPEGS] for name, p in predictors.items()}
    assert min(abs(a - b) for a, b in zip(*expected.values(), strict=True)) > 1e-3
    app = build(reload_seconds=0.2)
    answers: list[Any] = []
    with listening(app) as url:

        def call() -> None:
            while len(answers) < 4000 and (not answers or answers[-1].json()["model"]["version"] == "1"):
                answers.append(requests.post(f"{url}/v1/predict", files=attach(*JPEGS), timeout=90))

        with ThreadPoolExecutor(4) as callers:
            calls = [callers.submit(call) for _ in range(4)]
            wait_until(lambda: len(answers) > 8)
            promote("2")
            for done in calls:
                done.result()
        after = requests.post(f"{url}/v1/predict", files=attach(*JPEGS), timeout=90).json()
        metrics = requests.get(f"{url}/metrics", timeout=90).text
    assert {answer.status_code for answer in answers} == {200}
    for answer in [*(answer.json() for answer in answers), after]:
        probabilities = [image["probability"] for image in answer["images"]]
        assert probabilities == pytest.approx(expected[answer["model"]["version"]], abs=1e-6)
    assert after["model"]["version"] == "2" and after["model"]["notice"] == "other"
    assert "pneumonia_reloads_total 1.0" in metrics and 'pneumonia_model_info{version="2"} 1.0' in metrics


def test_a_new_champion_that_cannot_be_loaded_leaves_the_current_one(
    serve: Serve, project: Path, promote: Callable[[str], None], caplog: pytest.LogCaptureFixture
):
    novelty = project.with_name("other") / "artifacts/novelty.npz"
    novelty.rename(novelty.with_suffix(".away"))
    try:
        with serve(reload_seconds=0.1) as client:
            promote("2")
            wait_until(lambda: caplog.text.count("keeping the current model") > 1)
            assert post(client, PNG)["model"]["version"] == "1"
            assert client.get("/readyz").status_code == 200
    finally:
        novelty.with_suffix(".away").rename(novelty)


def count_loads(name: str, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], Any] = lambda: None) -> int:
    """Return how often a batcher loads a model within many of its checks."""
    loads: list[str] = []
    load = batching.load_predictor
    monkeypatch.setattr(batching, "load_predictor", lambda name: (loads.append(name), load(name))[1])

    async def run() -> None:
        async with Batcher(name, reload_seconds=0.01).running() as batcher:
            meanwhile()
            await asyncio.sleep(0.2)
            assert batcher.reloads == len(loads) - 1

    asyncio.run(run())
    return len(loads)


@pytest.fixture
def link(project: Path, tmp_path: Path) -> Path:
    """Return a link to the folder of the model."""
    (tmp_path / "link").symlink_to(project / "models")
    return tmp_path / "link"


@pytest.mark.parametrize("spelling", ["models/{}", "./models/{}", "reports/../models/{}", "models//{}", "{absolute}",
                                      "{link}/{}", "1", "01"])  # fmt: skip
def test_a_model_is_loaded_once_however_its_name_is_spelled(
    project: Path, link: Path, spelling: str, monkeypatch: pytest.MonkeyPatch
):
    name = spelling.format("finetuned.keras", absolute=project / "models/finetuned.keras", link=link)
    assert count_loads(name, monkeypatch) == 1


def test_a_model_file_that_is_replaced_takes_effect_at_the_next_start(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("finetuned.keras", "operating_point.json", "novelty.npz"):
        (tmp_path / name).write_bytes((project / "models" / name).read_bytes())
    model = tmp_path / "finetuned.keras"

    def replace() -> None:  # as a run of the pipeline does: the files beside it follow minutes later
        model.with_suffix(".new").write_bytes(b"another model")
        os.replace(model.with_suffix(".new"), model)

    assert count_loads(str(model), monkeypatch, replace) == 1
