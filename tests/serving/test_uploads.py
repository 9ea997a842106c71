"""Only well-formed forms with images are read, into memory only; whatever else is sent breaks nothing."""

import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from services import Serve, attach, check_problem, post
from uploads import DICOM, JPEGS, MULTIPART, PART, PNG, make_bodies, make_files

from pneumonia.inference.predictor import Predictor


def test_more_files_than_the_limit_are_refused_and_none_is_decoded(
    serve: Serve, predictors: dict[str, Predictor], monkeypatch: pytest.MonkeyPatch
):
    with serve(max_files=2) as client:
        assert len(post(client, *JPEGS[:2])["images"]) == 2
        monkeypatch.setattr(client.app.state.batcher, "_decode", None)  # pyright: ignore
        check_problem(client.post("/v1/predict", files=attach(*JPEGS[:3])), 422, "More than 2 files")
        check_problem(client.post("/v1/predict", content=PART * 400, headers=MULTIPART), 422, "More than 2 files")


UNUSABLE: dict[str, tuple[int, str, dict[str, Any]]] = {
    "nothing": (415, "multipart/form-data", {}),
    "JSON": (415, "multipart/form-data", {"json": {"files": []}}),
    "a form of text": (415, "multipart/form-data", {"data": {"files": "x"}}),
    "an image without a form": (415, "multipart", {"content": PNG, "headers": {"Content-Type": "image/png"}}),
    "a form without parts": (422, "Expected images", {"content": b"--b--\r\n", "headers": MULTIPART}),
    "an empty form": (422, "Truncated", {"content": b"", "headers": MULTIPART}),
    "another field": (422, "nothing else", {"files": [("file", ("x", PNG))]}),
    "another field beside": (422, "nothing else", {"files": [*attach(PNG), ("other", ("x", PNG))]}),
    "text beside": (422, "nothing else", {"files": attach(PNG), "data": {"files": "x"}}),
    "long text beside": (422, "nothing else", {"files": attach(PNG), "data": {"files": "x" * 2**21}}),
    "no boundary": (422, "Malformed", {"content": PART, "headers": {"Content-Type": "multipart/form-data"}}),
    "another boundary": (422, "Malformed", {"content": PART.replace(b"--b", b"--c"), "headers": MULTIPART}),
    "no name": (422, "Malformed", {"content": PART.replace(b"name=", b"nome=", 1), "headers": MULTIPART}),
    # Starlette's parser keeps the complete parts and silently drops the last one.
    "no end": (422, "Truncated", {"content": PART + PART, "headers": MULTIPART}),
    "an unknown value": (422, "heatmap", {"files": attach(PNG), "params": {"heatmap": "<b>"}}),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_request_that_is_no_form_with_images_is_refused(client: TestClient, name: str):
    status, detail, request = UNUSABLE[name]
    assert "<b>" not in check_problem(client.post("/v1/predict", **request), status, detail)["detail"]


def test_nothing_uploaded_is_ever_on_disk(client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    opened: list[Any] = []
    sys.addaudithook(lambda event, arguments: opened.append(arguments[0]) if event == "open" and watching else None)
    large, watching = PNG + os.urandom(3 * 2**20), True
    try:
        post(client, large, DICOM, heatmap=True)
        check_problem(client.post("/v1/predict", files=attach(os.urandom(3 * 2**20), b"")), 422)
        check_problem(client.post("/v1/predict", content=PART * 400, headers=MULTIPART), 422)
        check_problem(client.post("/v1/predict", files=attach(*[large] * 11)), 413)
    finally:
        watching = False
    written = [name for name in opened if str(tmp_path) in str(name) or str(name).startswith(tempfile.gettempdir())]
    assert not written and not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # about files that Pillow reads all the same
def test_no_upload_breaks_the_service_or_reveals_where_it_runs(client: TestClient, tmp_path: Path, monkeypatch: Any):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    sent: list[dict[str, Any]] = [{"files": attach(content)} for content in make_files()]
    sent += [{"content": body, "headers": dict(headers)} for headers, body in make_bodies()]
    statuses: dict[int, int] = {}
    for number, request in enumerate(sent):
        response = client.post("/v1/predict", **request)
        statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
        assert response.status_code in (200, 413, 415, 422), (number, response.text)
        if response.status_code != 200:
            check_problem(response, response.status_code)
        body = response.text.replace("multipart/form-data", "")
        assert not re.search(r"/|\.py|Traceback|0x[0-9a-f]{4}|passwd|Error", body), (number, body)
    assert len(sent) >= 200 and statuses[422] > 120, statuses
    assert post(client, PNG) and not list(tmp_path.iterdir())
