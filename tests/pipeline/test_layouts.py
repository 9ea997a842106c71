"""Every layout of docs/data.md reaches the end of `split`, and no patient is in two splits."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from dicoms import NARROW, encode
from numpy.random import default_rng
from pictures import encode as encode_image
from PIL import Image
from projects import ROOT

from pneumonia.core.errors import InputError
from pneumonia.core.names import CLASSES
from pneumonia.core.params import DataParams
from pneumonia.core.params_file import load_params
from pneumonia.core.tables import read_records
from stages.fetch import fetch
from stages.merge import merge
from stages.split import split
from stages.validate import validate

PATIENTS, IMAGES = 12, 2  # of each class, and of each patient
PARAMS = load_params()
MIMIC = "02aa804e-bde0afdd-112c0b34-7bc16630-4e38401"

Name = Callable[[str, int, int], str]  # of a file, by label, number of the patient, number of its image


def name_kaggle(label: str, who: int, image: int) -> str:
    place = f"{('train', 'val', 'test')[who % 3]}/{label}"
    return f"{place}/{f'person{who}_virus_{image}' if label == CLASSES[1] else f'IM-{who:04}-{image:04}'}.jpeg"


def name_mendeley(label: str, who: int, image: int) -> str:
    kind = "NORMAL" if label == CLASSES[0] else ("BACTERIA", "VIRUS")[who % 2]
    return f"{('train', 'test')[who % 2]}/{label}/{kind}-{who + 100 * CLASSES.index(label)}-{image:04}.jpeg"


def number(label: str, who: int) -> int:
    return who + 1000 * CLASSES.index(label)


LAYOUTS: dict[str, tuple[str, Name]] = {
    "Kaggle's": ("auto", name_kaggle),
    "Kaggle's, in a folder": ("auto", lambda *image: f"chest_xray/{name_kaggle(*image)}"),
    "Mendeley's": ("auto", name_mendeley),
    "class folders": ("auto", lambda *image: name_kaggle(*image).partition("/")[2]),
    "NIH's names": ("auto", lambda label, who, image: f"{label}/{number(label, who):08}_{image:03}.png"),
    "CheXpert's folders": (
        "auto",
        lambda label, who, image: f"train/{label}/patient{number(label, who):05}/study{image}/view1_frontal.jpg",
    ),
    "MIMIC's folders": (
        "auto",
        lambda label, who, image: f"{label}/p10/p1000{number(label, who):04}/s5041426{image}/{MIMIC}{image}.jpg",
    ),
    "folders of patients": ("folder", lambda label, who, image: f"{label}/{label}{who}/{image}.png"),
    "folders of patients and studies": ("folder", lambda label, who, image: f"{label}/{label}{who}/{image}/0.png"),
    "a table": ("patients.csv", lambda label, who, image: f"{label}/{who:02}-{image}.png"),
    "a Parquet table": ("meta/who.parquet", lambda label, who, image: f"set/{label}/{who:02}-{image}.png"),
    "a pattern": (r"^.*_(?P<patient>\w+)\.png$", lambda label, who, image: f"{label}/{image}_{label}{who}.png"),
    "DICOM": ("dicom", lambda label, who, image: f"{label}/{who:02}-{image}.dcm"),
}


def draw(folder: Path, rule: str, name: Name) -> dict[str, str]:
    """Write 48 images, and the table if the rule names one; return the patient of each by the pixels it has."""
    rows: list[dict[str, str]] = []
    for row, (label, who, image) in enumerate(np.ndindex(len(CLASSES), PATIENTS, IMAGES)):
        path, patient = name(CLASSES[label], who, image), f"{CLASSES[label]}{who}"
        plane = default_rng(row).integers(0, 256, (64, 64), dtype=np.uint8)
        content = (
            encode(plane, PatientID=patient, **NARROW)
            if path.endswith(".dcm")
            else encode_image(Image.fromarray(plane))
        )
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
        rows.append({"path": path, "patient": patient})
    (folder / rule).parent.mkdir(exist_ok=True)
    if rule.endswith(".csv"):
        pd.DataFrame(rows).to_csv(folder / rule, index=False)
    if rule.endswith(".parquet"):
        pd.DataFrame(rows).to_parquet(folder / rule)
    return {Path(row["path"]).as_posix(): row["patient"] for row in rows}


def run(folder: Path, rule: str, strategy: str = "patient") -> tuple[pd.DataFrame, dict[str, Any]]:
    """Run fetch to split in the current folder; return the table of splits and their report."""
    data = DataParams(source="folder", path=folder, patients=rule, images=48, seed=0)
    raw, records, merged, splits, report = map(Path, ("raw", "records.csv", "merged.csv", "splits.csv", "split.json"))
    fetch(raw, data)
    corrections, pairs = (ROOT / "data" / name for name in ("corrections.csv", "near_duplicates.csv"))
    validate(raw, corrections, records, Path("refused.csv"), Path("results.json"), Path("docs"), PARAMS.validate_, data)
    merge(records, corrections, merged, PARAMS.merge)
    split(merged, pairs, splits, report, PARAMS.split.model_copy(update={"strategy": strategy}), data)
    return read_records(splits), json.loads(report.read_text())


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_reaches_the_end_of_split_with_every_patient_in_one(layout: str, tmp_path: Path):
    rule, name = LAYOUTS[layout]
    truth = draw(tmp_path / "in", rule, name)
    table, report = run(tmp_path / "in", rule)
    assert len(table) == len(truth) == sum(report[part]["images"] for part in ("train", "val", "test"))
    assert (report["crossing_patients"], report["crossing_files"], report["left_out"]) == (0, 0, 0)
    fetched = {end: patient for path, patient in truth.items() for end in [path.removeprefix("chest_xray/")]}
    fetched = {end.removeprefix("set/"): patient for end, patient in fetched.items()}
    whose = table["path"].str.removeprefix("all/").map(fetched)
    assert table["split"].groupby(whose).nunique().tolist() == [1] * PATIENTS * 2
    assert table["patient_id"].groupby(whose).nunique().tolist() == [1] * PATIENTS * 2
    assert sum(report[part]["patients"] for part in ("train", "val", "test")) == PATIENTS * 2


OWN_NAMES: Name = lambda label, who, image: f"{label}/{label[:1]} {who:02}{'ab'[image]}.png"  # noqa: E731


def test_names_of_ones_own_are_not_split_by_patient_in_silence(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    draw(tmp_path / "in", "auto", OWN_NAMES)
    with pytest.raises(InputError, match=r"Whose 48 of 48 images are is unknown, such as all/NORMAL/N 00a\.png"):
        run(tmp_path / "in", "auto")
    said = capsys.readouterr().out
    assert "warning: patient_known: expected the patient of every image is known, found 48 unexpected image(s)" in said
    assert not Path("splits.csv").exists()


@pytest.mark.parametrize(("rule", "strategy"), [("each_image", "patient"), ("auto", "stratified")])
def test_where_unknown_patients_are_split_all_the_same_their_crossings_are_unknown(
    rule: str, strategy: str, tmp_path: Path
):
    draw(tmp_path / "in", rule, OWN_NAMES)
    table, report = run(tmp_path / "in", rule, strategy)
    assert len(table) == 48
    assert report["crossing_patients"] is None
    assert [report[part]["patients"] for part in ("train", "val", "test")] == [None] * 3


def test_the_same_pictures_in_other_bytes_are_set_aside(tmp_path: Path):
    draw(tmp_path / "in", "auto", name_kaggle)
    for path in list((tmp_path / "in").rglob("*.jpeg")):
        path.with_name(path.name.replace("IM-0", "IM-1").replace("person", "person9")).write_bytes(
            path.read_bytes() + b"\0"
        )
    table, report = run(tmp_path / "in", "auto")
    assert len(table) == 48
    assert report["crossing_files"] == 0


@pytest.mark.parametrize(
    ("path", "culprit"), [("gone.csv", "gone.csv is missing"), ("train.csv", "train.csv is not a file")]
)
def test_a_table_that_is_not_there_stops_fetch_before_anything_is_written(path: str, culprit: str, tmp_path: Path):
    draw(tmp_path / "in", "auto", name_kaggle)
    (tmp_path / "in/train.csv").mkdir()
    with pytest.raises(InputError, match=culprit):
        run(tmp_path / "in", path)
    assert list(Path().iterdir()) == []


def test_a_queue_of_stages_leaves_the_key_of_pseudonyms_beside_them_and_no_id_in_what_they_write(tmp_path: Path):
    draw(tmp_path / "in", "dicom", LAYOUTS["DICOM"][1])
    run(tmp_path / "in", "dicom")
    written = [path for path in Path().rglob("*") if path.is_file() and not path.is_relative_to("raw")]
    key = Path(".patient_key").read_text().strip()
    for path in written:
        content = path.read_text()
        assert "NORMAL3" not in content and "PNEUMONIA3" not in content
        assert (key in content) == (path.name == ".patient_key")
