"""MLflow's own ways to ask the champion say what the project's own do; its server reads no file of its machine."""

import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image
from projects import run

from benchmarks.servers import HOST, find_port, serving

URI = "models:/pneumonia-classifier@champion"

# Says of images what a version does for who has the registry and none of the code, and what its predictor does.
ASK = """
import json
import sys
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from PIL import Image

model = mlflow.pyfunc.load_model(sys.argv[1])
from pneumonia.champion import load_predictor

contents = [Path(name).read_bytes() for name in sys.argv[2:]]
grey = [np.asarray(Image.open(name)) for name in sys.argv[2:]]
said = {
    name: model.predict(pd.DataFrame({"image": column})).to_dict("list")
    for name, column in {"bytes": contents, "paths": sys.argv[2:], "arrays": grey, "one array": grey[:1]}.items()
}
predictor = load_predictor("champion")
answers = predictor.predict(np.stack([predictor.read_image(content) for content in contents]))
print(json.dumps(said | {"predictor": pd.DataFrame(map(vars, answers)).to_dict("list")}))
"""


@pytest.fixture(scope="module")
def images(once: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return images as PNG: of a JPEG the project reads a smaller version, which differs from all its grey values."""
    folder = tmp_path_factory.mktemp("work") / "image"
    folder.mkdir()
    for number, image in enumerate(sorted((once / "data/raw/test").glob("*/*"))[::2]):
        # Names that are base64 as well, relative to the folder above: image/000 and so on.
        Image.open(image).convert("L").save(folder / f"{number:03d}", "png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def expected(once: Path, images: list[Path]) -> list[dict[str, Any]]:
    """Return what `python -m pneumonia predict` says."""
    done = run(sys.executable, "-m", "pneumonia", "predict", "--json", *map(str, images), cwd=once)
    return json.loads(done.stdout)["images"]


@pytest.fixture(scope="module")
def asked(once: Path, images: list[Path]) -> dict[str, dict[str, list[Any]]]:
    """Return what is said of them in one process, in which there is no code of this project but the version's."""
    names = [f"image/{image.name}" for image in images]
    store = f"sqlite:///{once / 'mlruns/mlflow.db'}"
    done = run(sys.executable, "-c", ASK, URI, *names, cwd=images[0].parents[1], MLFLOW_TRACKING_URI=store)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def server(once: Path) -> Iterator[str]:
    """Run `mlflow models serve` and return its address."""
    port = find_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", URI, "--env-manager", "local", "-p", str(port)]
    address, store = f"http://{HOST}:{port}", f"sqlite:///{once / 'mlruns/mlflow.db'}"
    with serving(command, f"{address}/ping", once, MLFLOW_TRACKING_URI=store):
        yield address


@pytest.fixture(scope="module")
def service(once: Path) -> Iterator[str]:
    """Run the project's own service and return its address."""
    address = f"http://{HOST}:{(port := find_port())}"
    with serving([sys.executable, "-m", "pneumonia", "serve"], f"{address}/readyz", once, PNEUMONIA_PORT=str(port)):
        yield address


def invoke(server: str, *images: Any) -> requests.Response:
    table = {"columns": ["image"], "data": [[image] for image in images]}
    return requests.post(f"{server}/invocations", json={"dataframe_split": table}, timeout=60)


def assert_same(said: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    for name in ("decision", "novel"):
        assert [row[name] for row in said] == [row[name] for row in expected]
    probabilities = ([row["probability"] for row in rows] for rows in (said, expected))
    np.testing.assert_allclose(*probabilities, rtol=0, atol=1e-6)


def test_the_images_differ(expected: list[dict[str, Any]]) -> None:
    assert len({round(row["probability"], 6) for row in expected}) == len(expected) > 2


@pytest.mark.parametrize("way", ["bytes", "paths", "arrays", "predictor"])
def test_a_loaded_version_says_what_the_command_says(
    asked: dict[str, dict[str, list[Any]]], expected: list[dict[str, Any]], way: str
) -> None:
    columns = asked[way]
    assert_same([dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)], expected)


def test_one_array_is_one_image(asked: dict[str, dict[str, list[Any]]], expected: list[dict[str, Any]]) -> None:
    np.testing.assert_allclose(asked["one array"]["probability"], [expected[0]["probability"]], rtol=0, atol=1e-6)


def test_the_service_says_what_the_command_says(
    service: str, images: list[Path], expected: list[dict[str, Any]]
) -> None:
    files = [("files", image.read_bytes()) for image in images]
    assert_same(requests.post(f"{service}/v1/predict", files=files, timeout=60).json()["images"], expected)


def test_the_server_says_it_of_base64(server: str, images: list[Path], expected: list[dict[str, Any]]) -> None:
    answer = invoke(server, *(base64.b64encode(image.read_bytes()).decode() for image in images))
    assert_same(answer.json()["predictions"], expected)


def test_the_server_says_it_of_lists(server: str, images: list[Path], expected: list[dict[str, Any]]) -> None:
    assert_same(
        invoke(server, *(np.asarray(Image.open(image)).tolist() for image in images)).json()["predictions"], expected
    )


def test_the_server_says_it_of_one_image(server: str, images: list[Path], expected: list[dict[str, Any]]) -> None:
    for image, row in zip(images, expected, strict=True):
        assert_same(invoke(server, base64.b64encode(image.read_bytes()).decode()).json()["predictions"], [row])


# The second of each pair is missing; those of the last are base64 too.
@pytest.mark.parametrize(
    "there, missing", [("{image}", "{image}.png"), ("/etc/hostname", "/etc/hostnama"), ("/usr/bin/env", "/usr/bin/enw")]
)
def test_the_server_refuses_a_path_and_does_not_say_whether_it_is_there(
    server: str, images: list[Path], there: str, missing: str
) -> None:
    answers = [invoke(server, path.format(image=images[0])) for path in (there, missing)]
    assert [answer.status_code for answer in answers] == [400, 400]
    assert answers[0].text == answers[1].text
    assert "image 1: " in answers[0].json()["stack_trace"]


@pytest.mark.parametrize(
    "image", ["", "%%%", base64.b64encode(b"GIF89a").decode(), [[]], [[256]], [[0.5]], [0], 7, None]
)
def test_the_server_refuses_what_is_no_image(server: str, image: Any) -> None:
    answer = invoke(server, image)
    assert (answer.status_code, "image 1: " in answer.json()["stack_trace"]) == (400, True)
