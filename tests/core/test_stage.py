"""A stage gets its paths and parameters by annotation, and says in one message what went wrong."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from projects import ROOT, clean_environment

from pneumonia.core.errors import InputError
from pneumonia.core.params import MergeParams, Params, SplitParams
from pneumonia.core.params_file import load_params
from pneumonia.core.stage import run_stage

FULL_DISK = """
import resource
from pathlib import Path

import numpy as np
import pandas as pd

from pneumonia.core.dataset import Dataset, Split, write_dataset
from pneumonia.core.files import replacing
from pneumonia.core.stage import run_stage
from pneumonia.core.tables import write_table


def put_bytes(out: Path) -> str:
    with replacing(out) as beside:
        beside.write_bytes(bytes(50_000))


def put_table(out: Path) -> str:
    write_table(pd.DataFrame({"path": ["image"] * 20_000}), out)


def put_dataset(out: Path) -> str:
    images = Split(np.zeros((9, 99, 99), np.uint8), np.zeros(9, np.uint8), np.full(9, "image"), np.zeros(9, bool))
    write_dataset(Dataset(images, images, images, {0: 1.0, 1: 1.0}), out)


def put_wrapped(out: Path) -> str:
    try:
        put_bytes(out)
    except OSError as error:
        raise RuntimeError("The store cannot be written.") from error


# No file may grow beyond this: the write that would fails as on a full disk. Python ignores the signal.
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
run_stage(STAGE)
"""
REFUSE = """
from pathlib import Path
from pneumonia.core.errors import InputError
from pneumonia.core.params import MergeParams
from pneumonia.core.stage import run_stage


def merge(out: Path, params: MergeParams) -> str:
    raise InputError("The folder is empty.", expected="images", remedy="dvc repro fetch")


run_stage(merge)
"""


@pytest.fixture(autouse=True)
def _in_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)


def run_script(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "stage.py").write_text(script)
    return subprocess.run(
        [sys.executable, "stage.py", *arguments],
        cwd=folder,
        env=clean_environment() | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def test_paths_are_named_options_and_sections_come_by_type(monkeypatch: pytest.MonkeyPatch):
    called: list[object] = []

    def stage(raw: Path, out_table: Path, params: SplitParams, merging: MergeParams, recorded: Params) -> str:
        called.extend([raw, out_table, params, merging, recorded])
        return "done"

    monkeypatch.setattr(sys, "argv", ["stage", "--out-table", "data/out.csv", "--raw", "data/raw"])
    run_stage(stage)
    params = load_params(ROOT / "params.yaml")
    assert called == [Path("data/raw"), Path("data/out.csv"), params.split, params.merge, params]


def test_a_stage_ends_with_one_line_of_its_name_outcome_and_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def merge() -> str:
        return "12 images"

    monkeypatch.setattr(sys, "argv", ["stage"])
    run_stage(merge)
    assert capsys.readouterr().out == "merge: 12 images (0 s)\n"


@pytest.mark.parametrize("arguments", [[], ["--raw", "a"], ["--raw", "a", "--out", "b", "c"], ["a", "b"]])
def test_missing_and_unnamed_paths_are_refused(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def stage(raw: Path, out: Path) -> str:
        raise AssertionError("called without its paths")

    monkeypatch.setattr(sys, "argv", ["stage", *arguments])
    with pytest.raises(SystemExit, match="2"):
        run_stage(stage)
    assert "usage: stage [-h] --raw RAW --out OUT" in capsys.readouterr().err


def test_an_input_error_is_one_message_without_traceback_and_status_1(tmp_path: Path):
    done = run_script(tmp_path, REFUSE, "--out", "out.csv")
    assert done.returncode == 1
    assert done.stderr == "merge: The folder is empty.\n  Expected: images\n  Remedy: dvc repro fetch\n"


def test_unusable_parameters_stop_the_stage_before_it_starts(tmp_path: Path):
    params = tmp_path / "params.yaml"
    params.write_text(params.read_text().replace("drop_duplicates: true", "drop_duplicates: maybe"))
    done = run_script(tmp_path, REFUSE, "--out", "out.csv")
    assert done.returncode == 1
    assert "merge.drop_duplicates is 'maybe'" in done.stderr
    assert "Traceback" not in done.stderr
    assert "The folder is empty" not in done.stderr


@pytest.mark.parametrize("stage", ["put_bytes", "put_table", "put_dataset", "put_wrapped"])
def test_a_full_disk_is_one_message_and_leaves_all_as_it_was(tmp_path: Path, stage: str):
    out = tmp_path / "data" / "out"
    out.parent.mkdir()
    out.write_text("old")
    done = run_script(tmp_path, FULL_DISK.replace("STAGE", stage), "--out", "data/out")
    assert done.returncode == 1
    assert done.stderr.startswith(f"{stage}: ")
    assert "could not be written: File too large" in done.stderr
    assert "Remedy: free some space" in done.stderr
    assert "Traceback" not in done.stderr
    assert out.read_text() == "old"
    assert list(out.parent.iterdir()) == [out]


def test_an_error_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch):
    def stage() -> str:
        return Path("never/written").read_text()

    monkeypatch.setattr(sys, "argv", ["stage"])
    with pytest.raises(FileNotFoundError):
        run_stage(stage)


def test_the_message_names_the_stage(monkeypatch: pytest.MonkeyPatch):
    def validate() -> str:
        raise InputError("Three images are blank.", expected="none", remedy="look at them")

    monkeypatch.setattr(sys, "argv", ["stage"])
    with pytest.raises(SystemExit, match=r"^validate: Three images are blank\."):
        run_stage(validate)
