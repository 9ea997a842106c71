"""MLflow's own ways to ask the champion agree with the project's; its server reads no file of its machine."""

import base64
import json
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from fastapi.testclient import TestClient
from PIL import Image
from projects import run
from stores import working_in

from benchmarks.servers import HOST, find_port, serving
from pneumonia.cli.main import main
from pneumonia.serving.app import create_app
from pneumonia.serving.settings import Settings

URI = "models:/pneumonia-classifier@champion"

# Scores images with a loaded version where there is no code of the project, and with the predictor that it ships.
ASK = """
import json
import sys
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from PIL import Image

model = mlflow.pyfunc.load_model(sys.argv[1])
from pneumonia.inference.predictor import Predictor  # the version's own code

contents = [Path(name).read_bytes() for name in sys.argv[2:]]
grey = [np.asarray(Image.open(name)) for name in sys.argv[2:]]
found = {
    name: model.predict(pd.DataFrame({"image": column})).to_dict("list")
    for name, column in {"bytes": contents, "paths": sys.argv[2:], "arrays": grey, "one array": grey[:1]}.items()
}
version = Path(mlflow.artifacts.download_artifacts(sys.argv[1]))
predictor = Predictor.read(version / "artifacts/finetuned.keras")
answers = predictor.predict(np.stack([predictor.read_image(content) for content in contents]))
print(json.dumps(found | {"predictor": pd.DataFrame(map(vars, answers)).to_dict("list")}))
"""


@pytest.fixture(scope="module")
def images(once: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return images as PNG: the project reads a JPEG at a smaller scale, unlike a table of all its grey values."""
    folder = tmp_path_factory.mktemp("work") / "image"
    folder.mkdir()
    for number, image in enumerate(sorted((once / "data/raw/test").glob("*/*"))[::2]):
        # Paths that are valid base64 too, relative to the folder above: image/000 and so on.
        Image.open(image).convert("L").save(folder / f"{number:03d}", "png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def expected(once: Path, images: list[Path]) -> list[dict[str, Any]]:
    """Return the output of `python -m pneumonia predict`."""
    with working_in(once), redirect_stdout(StringIO()) as printed:
        main(["predict", "--json", *map(str, images)])
    return json.loads(printed.getvalue())["images"]


@pytest.fixture(scope="module")
def asked(once: Path, images: list[Path]) -> dict[str, dict[str, list[Any]]]:
    """Return the predictions of a process that has the version's code and none of the project's."""
    names = [f"image/{image.name}" for image in images]
    folder, store = images[0].parents[1], "sqlite:///mlruns/mlflow.db"
    (folder / "mlruns").symlink_to(once / "mlruns")
    (folder / "ask.py").write_text(ASK)
    done = run("python", "-m", "ask", URI, *names, cwd=folder, MLFLOW_TRACKING_URI=store)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def server(once: Path) -> Iterator[str]:
    """Run `mlflow models serve` and return its address."""
    port = find_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", URI, "--env-manager", "local", "-p", str(port)]
    address, store = f"http://{HOST}:{port}", f"sqlite:///{once / 'mlruns/mlflow.db'}"
    with serving(command, f"{address}/ping", once, MLFLOW_TRACKING_URI=store):
        yield address


def invoke(server: str, *images: Any) -> requests.Response:
    table = {"columns": ["image"], "data": [[image] for image in images]}
    return requests.post(f"{server}/invocations", json={"dataframe_split": table}, timeout=60)


def assert_same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    for name in ("decision", "novel"):
        assert [row[name] for row in found] == [row[name] for row in expected]
    probabilities = ([row["probability"] for row in rows] for rows in (found, expected))
    np.testing.assert_allclose(*probabilities, rtol=0, atol=1e-6)


def encode(image: Path) -> str:
    return base64.b64encode(image.read_bytes()).decode()


def test_the_images_differ(expected: list[dict[str, Any]]) -> None:
    assert len({round(row["probability"], 6) for row in expected}) == len(expected) > 2


@pytest.mark.parametrize("way", ["bytes", "paths", "arrays", "predictor"])
def test_a_loaded_version_agrees_with_the_command(
    asked: dict[str, dict[str, list[Any]]], expected: list[dict[str, Any]], way: str
) -> None:
    columns = asked[way]
    assert_same([dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)], expected)


def test_one_array_is_one_image(asked: dict[str, dict[str, list[Any]]], expected: list[dict[str, Any]]) -> None:
    np.testing.assert_allclose(asked["one array"]["probability"], [expected[0]["probability"]], rtol=0, atol=1e-6)


def test_the_service_agrees_with_the_command(once: Path, images: list[Path], expected: list[dict[str, Any]]) -> None:
    files = [("files", image.read_bytes()) for image in images]
    with working_in(once), TestClient(create_app(Settings()), base_url="http://localhost") as client:
        assert_same(client.post("/v1/predict", files=files).json()["images"], expected)


def test_the_server_of_mlflow_agrees_for_base64(
    server: str, images: list[Path], expected: list[dict[str, Any]]
) -> None:
    assert_same(invoke(server, *map(encode, images)).json()["predictions"], expected)
    for image, row in zip(images, expected, strict=True):  # a single image has another path through MLflow
        assert_same(invoke(server, encode(image)).json()["predictions"], [row])


def test_the_server_of_mlflow_agrees_for_lists(server: str, images: list[Path], expected: list[dict[str, Any]]) -> None:
    grey = [np.asarray(Image.open(image)).tolist() for image in images]
    assert_same(invoke(server, *grey).json()["predictions"], expected)


# The second of each pair does not exist; the paths of the last pair are valid base64 too.
@pytest.mark.parametrize(
    "there, missing", [("{image}", "{image}.png"), ("/etc/hostname", "/etc/hostnama"), ("/usr/bin/env", "/usr/bin/enw")]
)
def test_the_server_of_mlflow_refuses_a_path_without_revealing_whether_it_exists(
    server: str, images: list[Path], there: str, missing: str
) -> None:
    answers = [invoke(server, path.format(image=images[0])) for path in (there, missing)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].text == answers[1].text
    assert answers[0].json()["predictions"][0]["error"]


def test_the_server_of_mlflow_gives_what_is_no_image_a_row_with_its_error_and_answers_the_others(
    server: str, images: list[Path], expected: list[dict[str, Any]]
) -> None:
    good, bad = encode(images[0]), ["", "%%%", base64.b64encode(b"GIF89a").decode(), None]
    answer = invoke(server, good, *bad, good)
    first, *refused, last = json.loads(answer.text, parse_constant=pytest.fail)["predictions"]  # NaN is no JSON
    assert_same([first, last], [expected[0]] * 2)
    assert first["error"] is None
    for row in refused:
        assert row.pop("error") and row == {"probability": None, "decision": None, "novel": None}


@pytest.mark.parametrize("image", ["", "%%%", [[]], [[256]], [[0.5]], [[1, 2], [3]], [0], 7, None])
def test_the_server_of_mlflow_says_why_when_no_image_is_usable(server: str, image: Any) -> None:
    answer = invoke(server, image)
    assert answer.status_code == 200
    (row,) = answer.json()["predictions"]
    assert row["error"] and row["probability"] is None
