"""Fixtures: a store with two versions that disagree, and apps that serve the first."""

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
from services import Build, Serve
from stores import working_in

from pneumonia.inference.predictor import Predictor
from pneumonia.registry.load import load_predictor
from pneumonia.registry.verify import digest_files
from pneumonia.registry.versions import MODEL_NAME, download_version, get_version
from pneumonia.serving.app import create_app
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


@pytest.fixture(scope="module")
def project(registry: Path) -> Iterator[Path]:
    """Work in the project of `registry`."""
    with working_in(registry):
        yield registry


@pytest.fixture(scope="module")
def build(project: Path, predictors: dict[str, Predictor]) -> Build:
    """Return a function that builds an app around the champion, which is loaded once."""

    def build(**settings: Any) -> Any:
        app = create_app(Settings.model_validate({"reload_seconds": 86400} | settings))
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
