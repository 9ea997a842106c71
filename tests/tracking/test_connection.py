"""A tracking server's failures become errors that read as sentences and name a way out."""

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mlflow
import pytest
import requests
from mlflow.exceptions import MlflowException, RestException
from stores import working_in

from benchmarks.servers import find_port
from pneumonia.core.errors import InputError
from pneumonia.tracking.address import find_server
from pneumonia.tracking.connection import connect
from pneumonia.tracking.failures import UnreachableError, reaching

SERVER = "http://mlflow.example:5000"


@pytest.fixture(autouse=True)
def server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SERVER)


def fail(error: Exception, doing: str = "") -> InputError:
    with pytest.raises(InputError) as caught, reaching(doing):
        raise error
    return caught.value


@pytest.mark.parametrize(
    "doing, reason, sentence",
    [
        ("", "it is down", "The MLflow server {} cannot be reached: it is down."),
        ("reading it", "It is down.", "The MLflow server {} cannot be reached while reading it: It is down."),
        ("sending a/b", "down\n now", "The MLflow server {} cannot be reached while sending a/b: down now."),
    ],
)  # fmt: skip
def test_an_unreachable_server_is_one_sentence_that_says_what_was_going_on(doing: str, reason: str, sentence: str):
    error = fail(MlflowException(reason), doing)
    assert isinstance(error, UnreachableError)
    first, expected, remedy = str(error).splitlines()
    assert first == sentence.format(SERVER)
    assert expected.startswith("  Expected: ") and remedy.startswith("  Remedy: ")


@pytest.mark.parametrize("status", ["INVALID_PARAMETER_VALUE", "PERMISSION_DENIED", "UNAUTHENTICATED"])
def test_a_refusal_is_one_sentence_with_the_status(status: str):
    error = fail(RestException({"error_code": status, "message": "no."}), "promoting a version")
    assert not isinstance(error, UnreachableError)
    expected = rf"The MLflow server {SERVER} refused the request with HTTP 40\d while promoting a version: .*no\."
    assert re.fullmatch(expected, str(error).splitlines()[0])


def test_every_caller_says_what_it_does_in_a_form_that_makes_a_sentence():
    calls = [
        call
        for folder in ("pneumonia", "stages")
        for path in Path(__file__).parents[2].joinpath(folder).rglob("*.py")
        for call in re.findall(r"(?:with |@)reaching\(([^)]*)", path.read_text())
    ]
    assert len(calls) > 5
    assert [call for call in calls if not re.fullmatch(r'(doing|f?"\w+ing( [^".,]+)?")?', call)] == []


@pytest.mark.parametrize(
    "error", [requests.ConnectionError("refused"), MlflowException("down")], ids=["http", "mlflow"]
)
def test_the_errors_of_a_local_store_pass_unchanged(error: Exception, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    with pytest.raises(type(error)) as caught, reaching("promoting a version"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    "uri, server",
    [
        ("http://ann:secret@host:5000/", "http://host:5000"),
        ("https://host/mlflow", "https://host/mlflow"),
        ("sqlite:///mlflow.db", ""),
        ("postgresql+psycopg2://mlflow@/postgres", ""),
        ("", ""),
    ],
)
def test_a_server_is_named_without_credentials_and_a_store_is_no_server(
    monkeypatch: pytest.MonkeyPatch, uri: str, server: str
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert find_server() == server


class Old(BaseHTTPRequestHandler):
    """A server that knows the experiment and is MLflow 2."""

    def do_GET(self) -> None:
        answer = b'{"experiment": {"experiment_id": "1", "name": "pneumonia"}}' if "api" in self.path else b"2.22.1"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Print nothing."""


def test_a_server_older_than_mlflow_3_is_refused_at_the_first_connection(monkeypatch: pytest.MonkeyPatch):
    with ThreadingHTTPServer(("127.0.0.1", 0), Old) as old:
        threading.Thread(target=old.serve_forever).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{old.server_port}")
        mlflow.set_tracking_uri(None)  # pyright: ignore[reportArgumentType]
        with pytest.raises(InputError, match=r"(?s)is MLflow 2\.22\.1\..*Expected: MLflow 3 or later.*Remedy: upgrade"):
            connect()
        old.shutdown()


def test_connecting_to_a_server_that_is_not_there_says_so(tmp_path: Path):
    uri = f"http://127.0.0.1:{find_port()}"
    with working_in(tmp_path) as store:
        mlflow.set_tracking_uri(None)  # pyright: ignore[reportArgumentType]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", uri)
            patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
            with pytest.raises(UnreachableError, match=rf"{uri} cannot be reached while looking .*: .*refused"):
                connect()
        assert store.exists()
