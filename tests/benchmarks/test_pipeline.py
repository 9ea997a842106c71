"""Both ways train the same model, and the report shows what was measured."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from projects import ROOT, TINY, clean_environment

from benchmarks import engines, floor, pipeline
from benchmarks.__main__ import Bench, Form, write_report
from benchmarks.floor import list_passes
from benchmarks.pipeline import Ran, run, sample_images
from pneumonia.augment.build import read_split
from pneumonia.core.dataset import read_dataset
from pneumonia.core.errors import InputError
from pneumonia.core.params import ModelParams
from pneumonia.core.params_file import load_params
from pneumonia.core.tables import write_table
from pneumonia.inference.scores import score_images
from pneumonia.models.classifier import build_model
from pneumonia.records.scan import scan_images
from pneumonia.sources.phantom import draw_phantoms

CASE = ("tiny", "none", 60)
CHANGES = {section: values for section, values in TINY.items() if section != "data"}
FORM = Form((CASE,), (), phantoms=60, changes=CHANGES)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Return a benchmark that compared both phases of a tiny model and reported them."""
    folder = tmp_path_factory.mktemp("bench")
    bench = Bench(folder / "work", None, FORM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "clean_environment", clean_environment)
        write_report(bench, ["phases"], folder / "report.md")
    return bench


def read_rows(bench: Bench) -> dict[str, list[str]]:
    """Return the rows of the report's table by way."""
    lines = (bench.folder.parent / "report.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| 60 ")]
    return {row[1]: row[2:] for row in rows}


def test_both_ways_reach_the_same_validation_metrics(bench: Bench) -> None:
    ways = bench.compared[CASE]
    for phase in ("train", "finetune"):
        plain, pipeline = ways["plain"][phase], ways["pipeline"][phase]
        assert plain.val_loss == pytest.approx(pipeline.val_loss, abs=1e-5)
        assert plain.val_auc == pytest.approx(pipeline.val_auc, abs=1e-4)


def test_fine_tuning_starts_from_the_initial_phase(bench: Bench) -> None:
    for phases in bench.compared[CASE].values():
        # A new head would start at log 2 = 0.69; on noise a few steps may go up or down.
        assert phases["train"].val_loss < 0.55
        assert phases["finetune"].val_loss == pytest.approx(phases["train"].val_loss, abs=0.02)


def test_the_report_compares_both_ways(bench: Bench) -> None:
    rows = read_rows(bench)
    assert list(rows) == ["plain", "pipeline", "ratio"]
    for plain, ours, ratio in zip(*rows.values(), strict=True):
        assert float(ratio) == pytest.approx(float(plain) / float(ours), abs=0.02)


def test_the_report_names_versions_and_no_paths(bench: Bench) -> None:
    report = (bench.folder.parent / "report.md").read_text()
    assert all(word in report for word in ("Python 3.", "TensorFlow 2.", "Keras 3.", "commit "))
    assert str(bench.folder) not in report and str(ROOT) not in report


def test_the_floor_is_positive_and_below_the_time_of_the_pipeline(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(floor, "SECONDS", 0.01)
    project = bench.folder / "tiny-60"
    passes = list_passes(read_dataset(project / "data" / "dataset.pkl"), load_params(project / "params.yaml"))
    assert len(passes) == 2 + 4  # two frozen parts, and training and validation in two phases
    assert all(row.seconds > 0 for row in passes)
    took = sum(phase.seconds for phase in bench.compared[CASE]["pipeline"].values())
    assert sum(row.seconds for row in passes) < took


def test_the_time_of_a_stage_lasts_until_the_next_one_starts() -> None:
    lines = [(1.0, "Running stage 'train':"), (1.1, "> python"), (4.0, "Running stage 'finetune':"), (9.0, "Use ...")]
    assert Ran(10.0, 1.0, lines).stages == {"train": 3.0, "finetune": 6.0}


def test_a_failed_command_is_an_error_with_its_output(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"exit status 3:\nbroken"):
        run("python -c 'print(\"broken\"); exit(3)'", tmp_path)


def test_a_sample_is_stratified_and_reproducible(bench: Bench, tmp_path: Path) -> None:
    for name in ("one", "two"):
        sample_images(bench.images, 30, tmp_path / name)
    one, two = (
        {path.relative_to(tmp_path / name) for path in tmp_path.glob(f"{name}/*/*/*")} for name in ("one", "two")
    )
    assert one == two
    classes = [len(list(tmp_path.glob(f"one/train/{label}/*"))) for label in ("NORMAL", "PNEUMONIA")]
    assert classes == [8, 22]


def test_a_sample_larger_than_the_folder_is_refused(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"(?s)61 images cannot be drawn.*Expected: .*Remedy: "):
        sample_images(bench.images, 61, tmp_path / "sample")


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "benchmarks", "--data", str(tmp_path / "nowhere"))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "nowhere is missing." in done.stderr and "Expected: " in done.stderr and "Remedy: " in done.stderr
    assert "Traceback" not in done.stderr


def test_an_engine_scores_as_the_project_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(engines.BACKBONES, "tiny", "none")
    draw_phantoms(tmp_path / "raw", 48, seed=1)
    records, _ = scan_images(tmp_path / "raw")
    write_table(records, tmp_path / "merged.csv")
    measured = engines.measure("tensorflow", "tiny", tmp_path, 32)
    keras.utils.set_random_seed(1)
    model = build_model(ModelParams(backbone="tiny", weights="none", head="sigmoid", image_size="auto", dropout=0.5))
    images = read_split(records.sample(32, random_state=1), tmp_path / "raw", model.input_shape[1]).images
    expected = 1 / (1 + np.exp(-score_images(model, images)))
    np.testing.assert_allclose(measured["probabilities"], expected, atol=1e-5)
    assert measured["frozen"] > 0
