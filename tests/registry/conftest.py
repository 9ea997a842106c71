"""A store with versions to promote."""

from pathlib import Path

import mlflow
import pytest
from stores import working_in

from pneumonia.registry.versions import MODEL_NAME


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with versions 1 to 4, none of them champion."""
    with working_in(tmp_path_factory.mktemp("registered")) as store:
        client = mlflow.MlflowClient()
        client.create_registered_model(MODEL_NAME)
        for _ in range(4):
            client.create_model_version(MODEL_NAME, "file:nowhere")
        return store


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for the stores of all tests of a module, one after the other."""
    return tmp_path_factory.mktemp("home")
