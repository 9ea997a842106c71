"""Commit and library versions are recorded; where they cannot be known, that is said."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pneumonia.tracking.provenance import describe_code, find_commit


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def git(*arguments: str) -> str:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def describe() -> tuple[str, str]:
    tags = describe_code()
    return tags["git_commit"], tags["git_dirty"]


def test_the_commit_is_named_and_whether_tracked_files_differ_from_it():
    git("init", "-q")
    Path("file").touch()
    git("add", "file")
    git("commit", "-qm", "one")
    commit = git("rev-parse", "HEAD")
    Path("untracked").touch()
    assert describe() == (commit, "False")
    Path("file").write_text("changed")
    assert describe() == (commit, "True")


def test_outside_git_there_is_no_commit_and_changes_are_unknown():
    assert describe() == ("none", "unknown")


def test_before_the_first_commit_there_is_none():
    git("init", "-q")
    assert find_commit() == "none"


def test_without_the_program_git_there_is_no_commit_and_changes_are_unknown(monkeypatch: pytest.MonkeyPatch):
    git("init", "-q")
    monkeypatch.setenv("PATH", str(Path.cwd()))
    assert shutil.which("git") is None
    assert describe() == ("none", "unknown")


def test_a_repository_that_git_cannot_read_is_unknown_too():
    Path(".git").mkdir()
    Path(".git/HEAD").write_text("damaged")
    assert describe() == ("none", "unknown")
