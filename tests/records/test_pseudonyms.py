"""A PatientID becomes a pseudonym under a key that stays in the project and never enters git, DVC or an output."""

import hashlib
import hmac
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from projects import ROOT

from pneumonia.core.errors import InputError
from pneumonia.records.pseudonyms import pseudonymise, read_key


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_pseudonym_is_the_hmac_of_the_id():
    assert pseudonymise(b"MRN-4711", b"key") == hmac.new(b"key", b"MRN-4711", hashlib.sha256).hexdigest()


def test_the_same_key_gives_the_same_pseudonym_and_another_key_another():
    assert len({pseudonymise(b"7", key) for key in (b"one", b"one", b"two")}) == 2


def test_no_id_has_no_pseudonym():
    assert pseudonymise(b"", b"key") == ""


def test_the_key_of_the_environment_comes_first_and_leaves_no_file(project: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PNEUMONIA_PATIENT_KEY", "from the environment")
    assert read_key() == b"from the environment"
    assert list(project.iterdir()) == []


@pytest.mark.parametrize("empty", [None, ""])
def test_without_one_the_first_use_makes_a_file_that_only_its_owner_reads(
    project: Path, monkeypatch: pytest.MonkeyPatch, empty: str | None
):
    if empty is not None:
        monkeypatch.setenv("PNEUMONIA_PATIENT_KEY", empty)
    key = read_key()
    assert len(key) == 64
    assert (project / ".patient_key").stat().st_mode & 0o777 == 0o600
    assert read_key() == key


def test_the_file_moved_to_the_environment_is_the_same_key(project: Path, monkeypatch: pytest.MonkeyPatch):
    key = read_key()
    monkeypatch.setenv("PNEUMONIA_PATIENT_KEY", (project / ".patient_key").read_text().strip())
    assert read_key() == key


def test_several_first_uses_at_once_agree():
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: read_key(), range(8)))) == 1


def test_a_queued_experiment_uses_the_key_of_its_project(project: Path, monkeypatch: pytest.MonkeyPatch):
    key = read_key()
    (copy := project / ".dvc/tmp/exps/tmp1").mkdir(parents=True)
    monkeypatch.chdir(copy)
    assert read_key() == key


@pytest.mark.parametrize("content", [b"", b"\n"])
def test_an_empty_key_is_refused_with_what_to_do(project: Path, content: bytes):
    (project / ".patient_key").write_bytes(content)
    with pytest.raises(InputError, match=r"\.patient_key is empty(.|\n)*PNEUMONIA_PATIENT_KEY"):
        read_key()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o777])
def test_a_key_that_others_may_read_is_refused_with_what_to_do(project: Path, mode: int):
    read_key()
    (project / ".patient_key").chmod(mode)
    with pytest.raises(InputError, match=rf"mode {mode:o}(.|\n)*chmod 600"):
        read_key()


def test_a_key_that_cannot_be_read_is_refused(project: Path):
    (project / ".patient_key").mkdir()
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_key()


def test_git_dvc_and_the_image_of_a_container_ignore_the_key():
    ignored = subprocess.run(["git", "check-ignore", ".patient_key", ".cache/x"], cwd=ROOT, capture_output=True)
    assert ignored.stdout.split() == [b".patient_key", b".cache/x"]
    assert ".patient_key" in (ROOT / ".dvcignore").read_text().splitlines()
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"  # and the key is not among the exceptions
