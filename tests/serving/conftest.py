"""Fixtures: a store with two versions that disagree, apps that serve the first, and a browser for the page."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from fastapi.testclient import TestClient
from pages import MAX_UPLOAD_MB, visiting
from playwright.sync_api import BrowserContext, Page, sync_playwright
from proxies import proxying
from services import HOST, Build, Serve, listening
from stores import working_in

from pneumonia.images.workers import Decoders
from pneumonia.inference.predictor import Predictor
from pneumonia.registry.load import load_predictor
from pneumonia.registry.verify import digest_files
from pneumonia.registry.versions import MODEL_NAME, download_version, get_version
from pneumonia.serving import batcher as batching
from pneumonia.serving.app import create_app
from pneumonia.serving.page import mount_page
from pneumonia.serving.settings import Settings


@pytest.fixture(scope="session")
def registry(once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of a project with champion 1 and version 2, which scores every image differently."""
    project = tmp_path_factory.mktemp("registry") / "project"
    shutil.copytree(once, project, symlinks=True)
    with working_in(project):
        first = get_version("1")
        other = Path(shutil.copytree(download_version(first), project.with_name("other")))
        point = other / "artifacts/operating_point.json"
        point.write_text(json.dumps(json.loads(point.read_text()) | {"temperature": 30.0, "notice": "other"}))
        tags = {"digests": json.dumps(digest_files(other))}
        mlflow.MlflowClient().create_model_version(MODEL_NAME, str(other), first.run_id, tags)
    return project


@pytest.fixture(scope="session")
def predictors(registry: Path) -> dict[str, Predictor]:
    with working_in(registry):
        predictors = {name: load_predictor(name) for name in "12"}
    image = np.zeros((1, 32, 32), np.uint8)
    for predictor in predictors.values():  # TensorFlow keeps code that it generates as a temporary file
        predictor.predict(image)
        predictor.explain(image)
    return predictors


class Shared(Decoders):
    """Decoders that outlive the app that closes them."""

    def close(self) -> None:
        pass


@pytest.fixture(scope="session", autouse=True)
def decoders() -> Iterator[None]:
    """Let all apps decode in the same processes, which take seconds to start."""
    shared = Shared(2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "Decoders", lambda *limits: shared)
        yield
    Decoders.close(shared)


@pytest.fixture(scope="module")
def project(registry: Path) -> Iterator[Path]:
    """Work in the project of `registry`."""
    with working_in(registry):
        yield registry


@pytest.fixture(scope="module")
def build(project: Path, predictors: dict[str, Predictor]) -> Build:
    """Return a function that builds an app around the champion, which is loaded once."""

    def build(**settings: Any) -> Any:
        app = create_app(Settings.model_validate({"reload_seconds": 86400, "hosts": "testserver"} | settings))
        app.state.batcher.predictor = predictors["1"]
        return app

    return build


@pytest.fixture(scope="module")
def serve(build: Build) -> Serve:
    """Return a function that gives a client of a running app."""
    return lambda **settings: TestClient(build(**settings), raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client(serve: Serve) -> Iterator[TestClient]:
    with serve() as client:
        yield client


@pytest.fixture
def busy(predictors: dict[str, Predictor], monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Keep the model busy until the event is set."""
    released, predict = threading.Event(), predictors["1"].predict

    def wait(images: Any) -> Any:
        assert released.wait(90)
        return predict(images)

    monkeypatch.setattr(predictors["1"], "predict", wait)
    return released


@pytest.fixture
def count_queued(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[Any]]:
    """Return a function that gives a list which grows by one with every image that waits for the model of an app."""

    def count_queued(app: Any) -> list[Any]:
        queued, enqueue = [], app.state.batcher._enqueue
        monkeypatch.setattr(app.state.batcher, "_enqueue", lambda *image: (queued.append(0), enqueue(*image))[1])
        return queued

    return count_queued


@pytest.fixture
def promote() -> Iterator[Callable[[str], None]]:
    """Return a function that makes a version champion until the test ends."""

    def promote(version: str) -> None:
        mlflow.MlflowClient().set_registered_model_alias(MODEL_NAME, "champion", version)

    yield promote
    promote("1")


@pytest.fixture(scope="session")
def site(predictors: dict[str, Predictor]) -> Iterator[str]:
    """Return the address of a service with its page."""
    app = create_app(Settings(reload_seconds=86400, max_upload_mb=MAX_UPLOAD_MB, hosts=HOST))
    app.state.batcher.predictor = predictors["1"]
    with listening(mount_page(app, app.state.batcher, MAX_UPLOAD_MB)) as url:
        yield f"{url}/"


@pytest.fixture(scope="session")
def proxy(site: str) -> Iterator[str]:
    """Return the address of the same service behind a proxy that mounts it below a path."""
    with proxying(site, HOST) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[BrowserContext]:
    """Return a browser with one cache, so that Gradio's files are loaded once."""
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.fail("The page is tested in a browser: install Debian's with `apt-get install chromium`.", pytrace=False)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield browser.new_context()
        browser.close()


@pytest.fixture
def page(browser: BrowserContext, site: str) -> Iterator[Page]:
    with visiting(browser, site) as page:
        yield page


@pytest.fixture(scope="session")
def predictor(predictors: dict[str, Predictor]) -> Predictor:
    return predictors["1"]
