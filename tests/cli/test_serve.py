"""The command starts the service, or says why it cannot."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests
from projects import ROOT, clean_environment
from services import attach, check_problem
from stores import working_in
from uploads import PNG

import pneumonia.__main__
from benchmarks.servers import find_port
from pneumonia.cli.main import main


@pytest.mark.parametrize("model", ["7", "nobody", "nothing.keras", "alone.keras", "damaged.keras"])
def test_a_model_that_cannot_be_loaded_is_an_error_in_three_parts(once: Path, model: str, tmp_path: Path):
    shutil.copy(once / "models/finetuned.keras", tmp_path / "alone.keras")
    (tmp_path / "damaged.keras").write_bytes(b"PK")
    name = str(tmp_path / model) if model.endswith("keras") else model
    with working_in(once), pytest.raises(SystemExit) as ended:
        main(["serve", "--model", name, "--port", str(find_port())])
    assert re.fullmatch(r"\S[^\n]*\n  Expected: \S.*\n  Remedy: \S.*", str(ended.value)), ended.value


def test_a_version_whose_files_are_gone_is_an_error_in_three_parts(finished: Path):
    (models,) = (path.parents[1] for path in finished.glob("mlruns/**/artifacts/finetuned.keras"))
    models.rename(models.with_name("away"))
    with working_in(finished), pytest.raises(SystemExit) as ended:
        main(["serve", "--model", "1", "--port", str(find_port())])
    assert re.fullmatch(r"\S[^\n]*\n  Expected: \S.*\n  Remedy: \S.*", str(ended.value)), ended.value


@pytest.mark.parametrize(
    "host, taken", [("127.0.0.1", True), ("::1", True), ("192.0.2.1", False), ("nowhere.invalid", False)]
)
def test_where_nothing_can_listen_is_said_before_the_model_is_loaded(host: str, taken: bool):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server(("::1" if ":" in host else "127.0.0.1", 0), family=family) as other:
        port = other.getsockname()[1]
        with pytest.raises(SystemExit, match=rf"cannot listen on {host}, port {port}: .*\n  Expected: .*\n  Remedy: "):
            main(["serve", "--model", "nobody", "--host", host, "--port", str(port)])


@pytest.mark.parametrize("package, needs_it", [("uvicorn", "cli.serve"), ("gradio", "serving.page")])
def test_a_package_that_is_not_installed_is_an_error_that_says_how_to_install_it(
    package: str, needs_it: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"pneumonia.{needs_it}", raising=False)
    monkeypatch.setattr(sys, "argv", ["pneumonia", "serve", "--port", str(find_port())])
    with pytest.raises(SystemExit, match=f"^The package {package} is not installed for ") as ended:
        pneumonia.__main__.main()
    assert "Remedy: make setup" in str(ended.value) and "make serve" in str(ended.value)


def test_the_command_serves_api_and_page_until_it_is_interrupted(once: Path, tmp_path: Path):
    port, log = find_port(), tmp_path / "log"
    command = [sys.executable, "-m", "pneumonia", "serve", "--model", "1", "--port", str(port)]
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=once, env=clean_environment(), stdout=output, stderr=output)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 90
        while process.poll() is None and "startup complete" not in log.read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert process.poll() is None, log.read_text()
        assert requests.get(f"{url}/readyz", timeout=90).status_code == 200
        response = requests.post(f"{url}/v1/predict?secret=1", files=attach(PNG), timeout=90)
        assert response.status_code == 200 and "server" not in response.headers
        assert requests.get(url, timeout=90).headers["content-type"].startswith("text/html")
        check_problem(requests.get(f"{url}/v1/predict", timeout=90), 405)
    finally:
        process.send_signal(signal.SIGINT)
        status = process.wait(90)
    assert status in (0, -signal.SIGINT)
    said = log.read_text()
    assert len(re.findall("POST /v1/predict 200", said)) == 1 and not re.search("secret|Roe|Traceback", said), said


def test_make_serve_passes_model_and_port_as_arguments_and_never_as_commands():
    (line,) = re.findall("^serve:.*\n\t@(.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    shell = line.replace("$$", "$").replace("python -m", "printf '%s,'")
    given = {"MODEL": "a b; exit 1", "PORT": "8001"}
    for environment, expected in (({}, ""), (given, "--model,a b; exit 1,--port,8001,")):
        done = subprocess.run(["sh", "-c", shell], env={"PATH": os.environ["PATH"]} | environment, capture_output=True)
        assert done.stdout.decode() == f"pneumonia,serve,{expected}"
