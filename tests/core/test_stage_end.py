"""A stage ends with the DVC that started it, whichever process above it is killed, and with nothing else."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from projects import ROOT, clean_environment

# Each process tells its number. A shell stands for DVC, and for the shell through which DVC runs a stage.
STAGE = """
import os, subprocess, sys, time
from pathlib import Path
from pneumonia.core.stage import end_with_dvc

child = subprocess.Popen(["sleep", "60"])
Path("child").write_text(str(child.pid))
if "late" in sys.argv:  # DVC is gone before it can be watched
    parent = os.getppid()
    Path("stage").write_text(str(os.getpid()))
    while os.getppid() == parent:
        time.sleep(0.01)
end_with_dvc()
Path("stage").write_text(str(os.getpid()))
time.sleep(60)
"""
SHELL = "echo $$ > shell; {python} stage.py {how}; true"
DVC = "echo $$ > dvc; DVC_STAGE=train sh -c {shell}; true"
MAKE = "repro:\n\t@sh dvc.sh; true\n"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Return a folder with a stage, DVC and a Makefile; what ran there is killed."""
    (tmp_path / "stage.py").write_text(STAGE)
    (tmp_path / "Makefile").write_text(MAKE)
    yield tmp_path
    for name in ("make", "dvc", "shell", "stage", "child"):
        if (tmp_path / name).exists() and psutil.pid_exists(find(tmp_path, name)):
            os.kill(find(tmp_path, name), signal.SIGKILL)


def find(folder: Path, name: str) -> int:
    return int((folder / name).read_text())


def start(folder: Path, *command: str, how: str = "") -> subprocess.Popen[bytes]:
    """Run a command that runs DVC, in a group of its own as a shell does, and wait until the stage runs."""
    shell = SHELL.format(python=sys.executable, how=how)
    (folder / "dvc.sh").write_text(DVC.format(shell=shlex.quote(shell)))
    environment = {name: text for name, text in clean_environment().items() if not name.startswith("MAKE")}
    process = subprocess.Popen(
        command, cwd=folder, env=environment | {"PYTHONPATH": str(ROOT)}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    (folder / "make").write_text(str(process.pid))
    deadline = time.monotonic() + 60
    while not (folder / "stage").exists() or not (folder / "stage").read_text():
        assert time.monotonic() < deadline and process.returncode is None
        time.sleep(0.01)
    return process


def is_over(folder: Path, name: str, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while psutil.pid_exists(pid := find(folder, name)) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize("killed", ["make", "dvc", "shell"])
def test_a_stage_ends_with_whichever_process_above_it_is_killed(killed: str, folder: Path) -> None:
    process = start(folder, "make", "repro")
    os.kill(find(folder, killed), signal.SIGKILL)
    assert is_over(folder, "stage")
    assert is_over(folder, "child")
    process.wait()


def test_a_stage_whose_dvc_is_gone_before_it_starts_ends(folder: Path) -> None:
    process = start(folder, "sh", "dvc.sh", how="late")
    for name in ("dvc", "shell"):
        os.kill(find(folder, name), signal.SIGKILL)
    process.wait()
    assert is_over(folder, "stage")


def test_a_stage_outlives_whoever_started_dvc_in_the_background(folder: Path) -> None:
    process = start(folder, "sh", "-c", "sh dvc.sh & sleep 1.5")
    assert process.wait() == 0
    assert not is_over(folder, "stage", seconds=1.5)


def test_without_dvc_nothing_is_watched(folder: Path) -> None:
    process = start(folder, "sh", "-c", f"{sys.executable} stage.py & sleep 1")
    assert process.wait() == 0
    assert not is_over(folder, "stage", seconds=1.5)
