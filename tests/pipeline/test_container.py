"""The container image is assembled in a folder as the Dockerfile says, without an engine, and its commands run."""

import json
import os
import re
import shlex
import shutil
import subprocess
from fnmatch import fnmatch
from pathlib import Path
from urllib.request import urlopen

import pytest
from projects import ROOT

from benchmarks.servers import find_port, serving

Instructions = list[tuple[str, str]]
FILES = ("Dockerfile", ".dockerignore", "Procfile")


def read_stages() -> dict[str, Instructions]:
    """Return the instructions of each stage by its name, after those of the stage it starts from."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    found: dict[str, Instructions] = {}
    stage: Instructions = []
    for line in filter(None, "\n".join(lines).replace("\\\n", " ").splitlines()):
        keyword, _, rest = line.partition(" ")
        if keyword == "FROM":
            base, _, name = rest.partition(" AS ")
            stage = found[name] = list(found.get(base, []))
        stage.append((keyword, rest))
    return found


STAGES = read_stages()
SERVICE, BAKED = STAGES["service"], STAGES[""]


def find_last(stage: Instructions, keyword: str) -> str:
    return [rest for name, rest in stage if name == keyword][-1]


def list_copied(stage: Instructions, model: str = "models") -> list[tuple[list[str], str]]:
    """Return what is copied out of the project, and where to."""
    copied = [shlex.split(rest.replace("${MODEL}", model)) for name, rest in stage if name == "COPY"]
    paths = [[word for word in words if not word.startswith("--chmod")] for words in copied]
    return [(words[:-1], words[-1]) for words in paths if not words[0].startswith("--from")]


def is_let_in(path: str) -> bool:
    """Return whether .dockerignore lets a path in: the last pattern that matches it or a folder above decides."""
    lets_in, above = True, ["/".join(path.split("/")[: n + 1]) for n in range(path.count("/") + 1)]
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        names = path.split("/") if pattern.startswith("**/") else above
        if not line.startswith("#") and any(_matches(name, pattern.removeprefix("**/")) for name in names):
            lets_in = line.startswith("!")
    return lets_in


def _matches(name: str, pattern: str) -> bool:
    return name.count("/") == pattern.count("/") and fnmatch(name, pattern)


@pytest.fixture
def context(finished: Path) -> Path:
    """Return a project as it is on a machine that builds the image."""
    shutil.copy(ROOT / "requirements-serve.txt", finished)
    return finished


def build(context: Path, stage: Instructions, image: Path) -> dict[str, str]:
    """Assemble an image's file system in a folder and return its environment; the packages are those of the tests."""
    for sources, target in list_copied(stage):
        for path in (path for source in sources for path in context.glob(source)):
            for file in path.rglob("*") if path.is_dir() else [path]:
                if file.is_file() and is_let_in(file.relative_to(context).as_posix()):
                    inside = file.relative_to(path) if path.is_dir() else Path(file.name)
                    out = image / target.strip("/") / inside
                    out.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(file, out)
    (image / "venv").symlink_to(ROOT / ".venv")
    (image / "tmp").mkdir()
    pairs = [pair.split("=", 1) for name, rest in stage if name == "ENV" for pair in shlex.split(rest)]
    made = {name: f"{image}{value}" if value.startswith("/") else value for name, value in pairs}
    return made | {"PATH": made["PATH"].replace("$PATH", os.environ["PATH"]), "PNEUMONIA_PORT": str(find_port())}


def list_files(image: Path) -> set[Path]:
    return {path for part in ("app", "model") for path in (image / part).rglob("*")}


def check_health(stage: Instructions, environment: dict[str, str]) -> bool:
    command = json.loads(find_last(stage, "HEALTHCHECK").partition("CMD ")[2])
    return subprocess.run(command, env=environment, capture_output=True).returncode == 0


def test_an_image_with_a_model_inside_answers_and_writes_nothing(context: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"
    environment = build(context, BAKED, image)
    files, address = list_files(image), f"http://127.0.0.1:{environment['PNEUMONIA_PORT']}"
    assert {path.name for path in files} >= {"finetuned.keras", "operating_point.json", "novelty.npz"}
    assert not check_health(BAKED, environment)
    with serving(json.loads(find_last(BAKED, "CMD")), f"{address}/readyz", image / "app", **environment):
        assert check_health(BAKED, environment)
        with urlopen(address) as page, urlopen(f"{address}/docs") as docs:  # their templates are in the image
            assert (page.status, docs.status) == (200, 200)
    assert not check_health(BAKED, environment)
    assert list_files(image) == files


def test_an_image_without_one_takes_the_champion_of_the_registry(context: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{context / 'mlruns/mlflow.db'}"}
    environment = build(context, SERVICE, image) | store
    address = f"http://127.0.0.1:{environment['PNEUMONIA_PORT']}"
    with (
        serving(json.loads(find_last(SERVICE, "CMD")), f"{address}/readyz", image / "app", **environment),
        urlopen(f"{address}/v1/model") as answer,
    ):
        assert json.load(answer)["version"] == "1"
    assert not (image / "model").exists() and not (image / "app/mlruns").exists()


@pytest.mark.parametrize("given, expected", [({"PORT": "8765"}, "8765"), ({}, "8000")])
def test_the_procfile_runs_the_command_of_the_image_at_the_port_of_the_platform(
    given: dict[str, str], expected: str, tmp_path: Path
) -> None:
    kind, _, command = (ROOT / "Procfile").read_text().partition(": ")
    (tmp_path / "python").write_text('#!/bin/sh\necho "$PNEUMONIA_HOST $PNEUMONIA_PORT python $*"\n')
    (tmp_path / "python").chmod(0o755)
    environment = {"PATH": str(tmp_path)} | given
    done = subprocess.run(["/bin/sh", "-c", command], env=environment, capture_output=True, text=True)
    assert kind == "web"
    assert done.stdout == f"0.0.0.0 {expected} {' '.join(json.loads(find_last(SERVICE, 'CMD')))}\n"


def test_every_file_of_the_package_is_let_in() -> None:
    """Among them are templates, styles and scripts, which Python does not import."""
    files = [path for path in (ROOT / "pneumonia").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {path.suffix for path in files} >= {".py", ".html", ".css", ".js"}
    assert [path for path in files if not is_let_in(path.relative_to(ROOT).as_posix())] == []


@pytest.mark.parametrize("stage", ["packages", "service", ""])
def test_whatever_is_copied_exists_and_is_let_in(context: Path, stage: str) -> None:
    for sources, _ in list_copied(STAGES[stage]):
        for source in sources:
            found = list(context.glob(source))
            assert found or source.endswith("model_card.md*")  # the only optional one
            assert all(is_let_in(path.relative_to(context).as_posix()) for path in found), source


def test_a_downloaded_version_can_go_inside() -> None:
    sources = [source for sources, _ in list_copied(BAKED, "models/champion/artifacts") for source in sources]
    assert all(is_let_in(source) for source in sources)


@pytest.mark.parametrize(
    "path", [".git/config", ".venv/bin/python", "data/raw/image.jpeg", "mlruns/mlflow.db", "tests/conftest.py", ".env",
             "pneumonia/cli/__pycache__/serve.cpython-311.pyc", "pneumonia/__pycache__/x.pyc", "params.yaml"]
)  # fmt: skip
def test_nothing_else_is_let_in(path: str) -> None:
    assert not is_let_in(path)


def test_the_base_image_is_pinned_by_digest_and_packages_by_hashes() -> None:
    images = {rest.split()[0] for stage in STAGES.values() for name, rest in stage if name == "FROM"} - set(STAGES)
    assert [image for image in images if not re.fullmatch(r"python:[\d.]+-slim-\w+@sha256:[0-9a-f]{64}", image)] == []
    assert "--no-deps --require-hashes -r /requirements-serve.txt" in find_last(STAGES["packages"], "RUN")


@pytest.mark.parametrize("stage", [SERVICE, BAKED], ids=["service", "baked"])
def test_the_image_runs_neither_as_root_nor_in_a_shell(stage: Instructions) -> None:
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", find_last(stage, "USER"))
    assert isinstance(json.loads(find_last(stage, "CMD")), list)


@pytest.mark.parametrize("name", FILES)
def test_no_file_holds_a_secret_or_another_host(name: str) -> None:
    text = (ROOT / name).read_text()
    assert re.findall(r"https?://(?!127\.0\.0\.1)\S*", text) == []
    assert re.findall(r"(?i)password|secret|token|api_key|credential", text) == []
