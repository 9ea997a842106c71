"""A registered version is verified before it predicts."""

from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from pneumonia.core.errors import InputError
from pneumonia.registry.load import load_predictor


@pytest.fixture
def stored(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in a finished project, and return the registered model in its store."""
    monkeypatch.chdir(finished)
    [stored] = (finished / "mlruns").rglob("artifacts/finetuned.keras")
    yield stored
    mlflow.set_tracking_uri(None)  # pyright: ignore[reportArgumentType]


def test_a_version_predicts_as_registered_and_not_after_a_byte_of_it_changed(stored: Path) -> None:
    assert load_predictor("champion").name == "1"
    content = stored.read_bytes()
    stored.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    with pytest.raises(InputError, match=r"artifacts/finetuned\.keras changed"):
        load_predictor("champion")
