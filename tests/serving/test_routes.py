"""The API answers with what the predictor says, in the form that its documentation promises."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import schemathesis
from fastapi.testclient import TestClient
from PIL import Image
from schemathesis.engine import from_schema
from schemathesis.engine.events import FatalError, NonFatalError, ScenarioFinished
from schemathesis.python.asgi import shutdown_lifespans
from services import KEY, Build, Serve, attach, check_problem, post, predict
from uploads import DICOM, JPEGS, PNG

from pneumonia.inference.heatmaps import overlay
from pneumonia.inference.predictor import Predictor
from pneumonia.registry.versions import MODEL_NAME
from pneumonia.serving.app import create_app
from pneumonia.serving.settings import Settings


@pytest.mark.parametrize("content", [JPEGS[0], PNG, DICOM], ids=["jpeg", "png", "dicom"])
def test_an_image_gets_the_answer_of_the_predictor(
    client: TestClient, predictors: dict[str, Predictor], content: bytes
):
    (image,) = post(client, content)["images"]
    assert image == pytest.approx(predict(predictors["1"], content), abs=1e-6)


def test_answers_keep_the_order_of_the_images(client: TestClient, predictors: dict[str, Predictor]):
    contents = [JPEGS[n] for n in (3, 0, 5, 1, 4, 2)]
    found = [image["probability"] for image in post(client, *contents)["images"]]
    assert found == pytest.approx([predict(predictors["1"], each)["probability"] for each in contents], abs=1e-6)
    assert len({round(probability, 5) for probability in found}) == len(found)


def test_an_image_gets_the_same_answer_alone_and_among_others(client: TestClient):
    (alone,) = post(client, JPEGS[2])["images"]
    assert post(client, *JPEGS, *JPEGS)["images"][8] == pytest.approx(alone, abs=1e-6)


def test_every_answer_names_its_model_and_carries_its_notice(client: TestClient):
    known = {"version": "1", "threshold": 0.5, "classes": ["NORMAL", "PNEUMONIA"]}
    assert post(client, JPEGS[0])["model"] == known | {"notice": "Synthetic radiographs: no clinical meaning."}


def test_a_heat_map_is_drawn_only_on_request(client: TestClient, predictors: dict[str, Predictor]):
    first, refused = post(client, JPEGS[0], b"no image", heatmap=True)["images"]
    assert set(refused) == {"error"} and "heatmap" not in post(client, JPEGS[0])["images"][0]
    kind, data = first["heatmap"].split(",")
    image = predictors["1"].read_image(JPEGS[0])
    expected = overlay(image, predictors["1"].explain(image[None])[0])
    assert kind == "data:image/png;base64"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), expected)


def test_a_file_that_is_no_image_gets_an_error_in_its_place(client: TestClient):
    first, second, third = post(client, b"GIF89a", JPEGS[1], b"")["images"]
    assert (first, third) == ({"error": "not a JPEG, PNG, TIFF, WEBP, BMP or DICOM file"}, {"error": "empty file"})
    assert second["decision"] in ("NORMAL", "PNEUMONIA")


def test_a_request_without_any_usable_image_is_refused_with_a_reason_for_each_file(client: TestClient):
    problem = check_problem(client.post("/v1/predict", files=attach(b"", b"GIF89a")), 422, "No file")
    assert problem["errors"] == ["empty file", "not a JPEG, PNG, TIFF, WEBP, BMP or DICOM file"]


def test_the_model_is_described(client: TestClient, predictors: dict[str, Predictor]):
    found = client.get("/v1/model").json()
    point = predictors["1"].point
    assert (found["name"], found["version"], found["rule"], found["image_size"]) == (MODEL_NAME, "1", "fixed", 32)
    assert (found["temperature"], found["threshold"]) == (point.temperature, point.threshold)
    assert found["card"] == predictors["1"].card and "# " in found["card"] and "Synthetic" in found["notice"]


def test_of_a_model_file_only_the_name_is_shown(project: Path, serve: Serve, predictors: dict[str, Predictor]):
    model = project / "reports/../models/finetuned.keras"
    assert model.is_file()
    with serve(model=str(model)) as client:
        predictors["1"].name = str(model)
        try:
            assert client.get("/v1/model").json()["version"] == "finetuned.keras"
            assert post(client, PNG)["model"]["version"] == "finetuned.keras"
            assert 'pneumonia_model_info{version="finetuned.keras"}' in client.get("/metrics").text
        finally:
            predictors["1"].name = "1"


def test_an_app_without_a_model_is_alive_but_not_ready():
    client = TestClient(create_app(Settings()), base_url="http://localhost")  # without startup
    assert client.get("/healthz").status_code == 200
    for response in (client.get("/readyz"), client.get("/v1/model"), client.post("/v1/predict", files=attach(PNG))):
        check_problem(response, 503, "not loaded")
        assert int(response.headers["Retry-After"]) > 0
    assert "pneumonia_model_info" not in client.get("/metrics").text


def test_the_documentation_lists_every_operation_and_loads_nothing(client: TestClient):
    page, paths = client.get("/docs").text, client.get("/openapi.json").json()["paths"]
    assert set(paths) == {"/v1/predict", "/v1/model", "/healthz", "/readyz", "/metrics"}
    assert all(f" {path}</code>" in page for path in paths)
    assert "POST /v1/predict" in page and "heatmap" in page and "415: " in page
    assert not re.search(r"<script|<link|src=|https://|url\(", page)


def test_the_documentation_mentions_the_key_if_one_is_required(build: Build, client: TestClient):
    guarded = TestClient(build(api_key=KEY)).get("/openapi.json", headers={"X-API-Key": KEY}).json()
    assert set(guarded["components"]["securitySchemes"]) == {"APIKeyHeader", "HTTPBearer"}
    assert guarded["paths"]["/v1/predict"]["post"]["security"] == [{"APIKeyHeader": []}, {"HTTPBearer": []}]
    assert "security" not in guarded["paths"]["/healthz"]["get"] and KEY not in json.dumps(guarded)
    assert "security" not in client.get("/openapi.json").json()["paths"]["/v1/predict"]["post"]


# Random files are no images, so a valid form may be refused. A form with an unknown field is refused like any other
# malformed form.
SCHEMATHESIS: dict[str, Any] = {
    "seed": 1, "headers": {"X-API-Key": KEY}, "generation": {"max-examples": 30, "database": "none"},
    "checks": {"positive_data_acceptance": {"enabled": False},
               "negative_data_rejection": {"expected-statuses": [401, 404, 405, 413, 415, 422]}},
}  # fmt: skip


def test_the_service_does_what_its_documentation_says(build: Build):
    config = schemathesis.Config.from_dict(SCHEMATHESIS)
    app = build(api_key=KEY)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, config=config, headers={"X-API-Key": KEY})
    cases, wrong = 0, []
    try:
        for event in from_schema(schema).execute():
            if isinstance(event, ScenarioFinished):
                cases += len(event.recorder.cases)
                checks = [check for found in event.recorder.checks.values() for check in found if check.failure_info]
                wrong += [f"{event.label}: {check.name}: {check.failure_info}" for check in checks]
            if isinstance(event, NonFatalError):
                wrong.append(f"{event.label}: {event.value}")
            assert not isinstance(event, FatalError), event.exception
    finally:
        shutdown_lifespans()
    assert not wrong and cases > 100, "\n".join(wrong)
