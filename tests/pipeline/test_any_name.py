"""A folder with any names passes through DVC, tables, figures and pages; what is damaged in it is set aside."""

import csv
import html
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
from names import TEXT
from projects import copy_project, run, set_params

from pneumonia.core.tables import read_predictions, read_records

ODD = "of [Ward] 'A' \"B\" $c {d} & ü"
DAMAGED = ["<script>alert(2)<.jpeg", "$y_1$\r.jpeg", "=2+2.jpeg", "-z.jpeg"]


@pytest.fixture(scope="module")
def folder(once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return class folders whose images have all of TEXT's names, four damaged ones with others among them."""
    folder = tmp_path_factory.mktemp("folder") / ODD
    for label in ("NORMAL", "PNEUMONIA"):
        (folder / label).mkdir(parents=True)
        images = sorted((once / "data/raw").glob(f"*/{label}/*"))
        for number, image in enumerate(images):
            shutil.copy(image, folder / label / (TEXT[number] if number < len(TEXT) else image.name))
    for name in DAMAGED:
        (folder / "PNEUMONIA" / name).write_bytes(images[0].read_bytes()[:200])
    return folder


@pytest.fixture(scope="module")
def project(once: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project that has read the folder and evaluated the models of another run on it."""
    project = copy_project(tmp_path_factory.mktemp("names") / "project")
    data = {"source": "folder", "path": str(folder), "patients": "each_image"}
    set_params(project, {"data": data, "validate": {"max_refused_share": 0.1}})
    run("dvc", "repro", "augment", cwd=project)
    for name in ("models/initial.keras", "models/finetuned.keras", "reports/train_history.csv",
                 "reports/finetune_history.csv", "reports/finetune.json"):  # fmt: skip
        (project / name).parent.mkdir(exist_ok=True)
        shutil.copy(once / name, project / name)
    run("dvc", "repro", "--single-item", "evaluate", "report", cwd=project)
    return project


def list_paths(folder: Path) -> set[str]:
    return {f"all/{path.relative_to(folder).as_posix()}" for path in folder.glob("*/*")}


def test_tables_name_every_image_as_it_is(project: Path, folder: Path) -> None:
    damaged = {f"all/PNEUMONIA/{name}" for name in DAMAGED}
    refused = pd.read_csv(project / "data/refused.csv", keep_default_na=False)
    assert set(refused["path"]) == damaged
    assert set(read_records(project / "data/records.csv")["path"]) == list_paths(folder) - damaged
    splits = read_records(project / "data/splits.csv")
    assert {f"all/NORMAL/{name}" for name in TEXT[:10]} <= set(splits["path"])
    predictions = project / "reports/evaluation/predictions.csv"
    tested = set(splits.loc[splits["split"] == "test", "path"])
    assert set(read_predictions(predictions)["path"]) == tested
    with predictions.open(newline="") as file:
        assert {row["path"] for row in csv.DictReader(file)} == tested


@pytest.mark.parametrize("page", ["reports/data_docs/index.html", "reports/report.html"])
def test_pages_run_nothing_that_a_name_says(project: Path, page: str) -> None:
    text = (project / page).read_text()
    assert "<script" not in text and "alert(1)<" not in text


def test_data_docs_name_what_was_set_aside(project: Path) -> None:
    page = html.unescape((project / "reports/data_docs/index.html").read_bytes().decode())
    assert all(f"all/PNEUMONIA/{name} (" in page for name in DAMAGED)


def test_figures_of_images_with_any_name_are_drawn(project: Path) -> None:
    for name in ("reports/samples.png", "reports/augmented.png", "reports/evaluation/heatmaps.png"):
        assert (project / name).stat().st_size > 1000


def test_too_many_damaged_images_stop_the_pipeline_and_are_named(project: Path, folder: Path) -> None:
    set_params(project, {"validate": {"max_refused_share": 0.01}})
    failed = run("dvc", "repro", "--single-item", "validate", cwd=project, check=False)
    assert failed.returncode != 0
    assert "readable: expected at least" in failed.stderr and "-z.jpeg" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_name_that_is_not_utf_8_is_named_before_dvc_ends_without_a_word_of_it(project: Path, folder: Path) -> None:
    bad = folder / "NORMAL" / os.fsdecode(b"latin\xf6.jpeg")
    bad.touch()
    failed = run("python", "-m", "pneumonia.sources.folder", cwd=project, check=False)
    bad.unlink()
    assert failed.returncode == 1
    assert "latin\\xf6.jpeg is not UTF-8" in failed.stderr and "Remedy: rename it" in failed.stderr
