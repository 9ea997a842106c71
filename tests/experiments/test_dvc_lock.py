"""What DVC was writing when it was killed is replaced by what it reads."""

import json
import os
import resource
import subprocess
from pathlib import Path

import pytest
from dvc.lock import make_lock
from projects import ROOT

from pneumonia.core.errors import InputError
from pneumonia.experiments.dvc_lock import LOCK, USED, mend_lock

WHOLE = (ROOT / "dvc.lock").read_bytes()
CUT = [
    b"",
    b"\n",
    WHOLE[:1],
    WHOLE[:15],
    WHOLE[: WHOLE.index(b"hash:") + 3],
    WHOLE[: WHOLE.rindex(b"md5:") + 9],
    b"\0" * 4096,
    b"{}",
    b"[]",
]


@pytest.fixture
def committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    LOCK.write_bytes(WHOLE)
    for command in ("init -q", "add -A", "-c user.name=t -c user.email=t@t commit -qm lock"):
        subprocess.run(["git", *command.split()], check=True)


@pytest.mark.usefixtures("committed")
@pytest.mark.parametrize("content", CUT)
def test_a_lock_that_was_cut_short_is_restored_from_the_last_commit(content: bytes) -> None:
    LOCK.write_bytes(content)
    mend_lock()
    assert LOCK.read_bytes() == WHOLE


@pytest.mark.usefixtures("committed")
@pytest.mark.parametrize("content", [None, WHOLE, WHOLE.replace(b"fetch:", b"other:")])
def test_a_lock_that_dvc_reads_or_that_is_not_there_stays_as_it_is(content: bytes | None) -> None:
    LOCK.unlink() if content is None else LOCK.write_bytes(content)
    mend_lock()
    assert (LOCK.read_bytes() if LOCK.exists() else None) == content


@pytest.mark.parametrize("content", CUT)
def test_a_lock_that_was_cut_short_and_never_committed_is_removed(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    LOCK.write_bytes(content)
    mend_lock()
    assert not LOCK.exists()


@pytest.mark.usefixtures("committed")
def test_a_lock_that_dvc_is_just_writing_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dvc.lock.DEFAULT_TIMEOUT", 0)  # seconds for which a command waits for another
    USED.parent.mkdir(parents=True)
    LOCK.write_bytes(b"")
    with make_lock(str(USED.with_name("lock"))):
        mend_lock()
    assert LOCK.read_bytes() == b""


@pytest.mark.parametrize("state", ["in use", "cut short", "killed"])
def test_a_list_of_files_in_use_is_removed_if_it_was_cut_short_or_names_none_that_runs(
    state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    USED.parent.mkdir(parents=True)
    with subprocess.Popen(["sleep", "60"]) as process:
        user = {"pid": process.pid, "cmd": "dvc repro"}
        whole = json.dumps({"write": {"data/raw": user}, "read": {"data": [user]}})
        USED.write_text(whole[:40] if state == "cut short" else whole)
        if state == "killed":
            process.kill()
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # nobody reaps it yet
        mend_lock()
        process.kill()
    assert USED.exists() == (state == "in use")


@pytest.mark.usefixtures("committed")
def test_a_disk_that_is_still_full_is_one_error_and_leaves_the_lock_to_be_mended() -> None:
    LOCK.write_bytes(b"")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # writing more fails as on a full disk
    try:
        with pytest.raises(InputError, match="cannot be mended: File too large"):
            mend_lock()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    mend_lock()
    assert LOCK.read_bytes() == WHOLE
