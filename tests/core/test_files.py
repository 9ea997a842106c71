"""A file is written whole or not at all, and by one process at a time."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from projects import ROOT

from pneumonia.core.files import locked, project_home, remove_unless_locked, replacing, sha256_bytes, sha256_file

HOLD = """
import sys
from pathlib import Path
from pneumonia.core.files import locked

with locked(Path("state"), "training"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_new_file_replaces_the_old_one(tmp_path: Path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with replacing(path) as beside:
        beside.write_text("new")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["table.csv"]


def test_nothing_is_at_the_path_before_the_block_ends(tmp_path: Path):
    path = tmp_path / "table.csv"
    with replacing(path) as beside:
        beside.write_text("new")
        assert not path.exists()


def fail_halfway(path: Path) -> None:
    with replacing(path) as beside:
        beside.write_text("half of the n")
        raise RuntimeError("stopped")


def test_the_old_file_stays_when_the_block_fails(tmp_path: Path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="stopped"):
        fail_halfway(path)
    assert path.read_text() == "old"


def test_a_block_that_fails_leaves_no_partial_file(tmp_path: Path):
    with pytest.raises(RuntimeError, match="stopped"):
        fail_halfway(tmp_path / "table.csv")
    assert os.listdir(tmp_path) == []


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "table.csv"):
        pass


def test_missing_folders_are_created(tmp_path: Path):
    with replacing(tmp_path / "reports" / "new" / "table.csv") as beside:
        beside.write_text("new")
    assert (tmp_path / "reports" / "new" / "table.csv").read_text() == "new"


@pytest.mark.parametrize("name", ["initial.weights.h5", "model.keras", "roc.png", "no_suffix"])
def test_the_partial_file_lies_beside_the_file_and_ends_in_its_name(tmp_path: Path, name: str):
    with replacing(tmp_path / name) as beside:
        assert beside.name.endswith(name)
        assert beside.parent == tmp_path  # moving from another disk would not be one step
        beside.touch()


def test_another_hard_link_to_the_old_file_keeps_the_old_content(tmp_path: Path):
    path, cached = tmp_path / "table.csv", tmp_path / "cached"
    path.write_text("old")
    cached.hardlink_to(path)  # as DVC's cache may do
    with replacing(path) as beside:
        beside.write_text("new")
    assert cached.read_text() == "old"


@pytest.mark.parametrize("content", [b"", b"abc", bytes(range(256)) * 9000])
def test_both_hashes_equal_hashlibs(tmp_path: Path, content: bytes):
    path = tmp_path / "image.jpeg"
    path.write_bytes(content)
    assert sha256_bytes(content) == sha256_file(path) == hashlib.sha256(content).hexdigest()


def test_home_is_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert project_home() == tmp_path.resolve()


def test_home_of_a_queued_experiment_is_the_project_it_was_queued_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    copy = tmp_path / ".dvc" / "tmp" / "exps" / "tmp1234"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    assert project_home() == tmp_path.resolve()


def test_a_second_process_says_why_it_waits_and_then_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    entered = threading.Event()

    def enter() -> None:
        with locked(tmp_path / "state", "training"):
            entered.set()

    with locked(tmp_path / "state", "training"):
        second = threading.Thread(target=enter)
        second.start()
        assert not entered.wait(0.2)
        assert not remove_unless_locked(tmp_path / "state")
    second.join()
    assert entered.is_set()
    assert capsys.readouterr().out == "Another process is training; waiting for it.\n"


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with process:
        assert process.stdout and process.stdout.readline() == b"held\n"
        process.send_signal(signal.SIGKILL)
    with locked(tmp_path / "state", "training"):
        pass
    assert capsys.readouterr().out == ""
