"""Corrections change labels and leave images out, copies of a picture included; what cannot hold is refused."""

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_tables import make_records, make_refused
from projects import ROOT

from pneumonia.core.errors import InputError
from pneumonia.core.params import DataParams, ValidateParams
from pneumonia.core.tables import write_table
from pneumonia.records.check import raise_on_critical
from pneumonia.records.corrections import COLUMNS, apply_corrections, find_corrected, read_corrections
from pneumonia.records.expectations import check_images

PARAMS = ValidateParams(max_refused_share=0.1, min_side=64, max_aspect=4, min_contrast=2, min_class_share=0.2)
DATA = DataParams(source="phantom", path=Path("unused"), patients="auto", images=48, seed=7)
LABELS = ["NORMAL", "PNEUMONIA"] * 6
RECORDS = make_records(label=LABELS)


def make_corrections(*rows: dict[str, str]) -> pd.DataFrame:
    """Return corrections with a reviewer, a reason and a date; each row names image 0 or another."""
    plausible = {"sha256": digest(0), "action": "exclude", "label": "", "reviewer": "R. Roe", "reason": "lateral view",
                 "date": "2026-11-26"}  # fmt: skip
    return pd.DataFrame([plausible | row for row in rows], columns=list(COLUMNS)).astype(COLUMNS)


def digest(row: int) -> str:
    return str(RECORDS["sha256"][row])


def relabel(row: int, label: str) -> dict[str, str]:
    return {"sha256": digest(row), "action": "relabel", "label": label}


def check(corrections: pd.DataFrame, docs: Path, records: pd.DataFrame = RECORDS) -> str:
    """Run the suite, and return the message of its error."""
    checks = check_images(records, make_refused(0), PARAMS, DATA, docs, corrections)
    with pytest.raises(InputError) as error:
        raise_on_critical(checks, docs)
    return str(error.value)


def test_the_project_comes_without_corrections():
    assert read_corrections(ROOT / "data" / "corrections.csv").empty


@settings(derandomize=True, max_examples=30, deadline=None)
@given(rows=st.dictionaries(st.integers(0, 11), st.sampled_from(["relabel", "exclude"]), max_size=5))
def test_a_correction_changes_the_images_it_names_and_no_other(rows: dict[int, str]):
    flipped = {"NORMAL": "PNEUMONIA", "PNEUMONIA": "NORMAL"}
    corrections = make_corrections(
        *(relabel(row, flipped[LABELS[row]]) if action == "relabel" else {"sha256": digest(row)}
          for row, action in rows.items())
    )  # fmt: skip
    labels = apply_corrections(RECORDS, corrections).set_index("sha256")["label"].to_dict()
    expected = {digest(row): flipped[label] if rows.get(row) == "relabel" else label
                for row, label in enumerate(LABELS) if rows.get(row) != "exclude"}  # fmt: skip
    assert labels == expected
    actions = find_corrected(RECORDS, corrections)["action"]
    assert {row: action for row, action in enumerate(actions) if action} == rows


def test_copies_of_a_picture_in_other_files_are_corrected_too():
    copied = RECORDS.assign(pixels_sha256=RECORDS["pixels_sha256"].where(RECORDS.index != 2, digest(0)))
    table = apply_corrections(copied, make_corrections(relabel(0, "PNEUMONIA")))
    assert table["label"].tolist() == ["PNEUMONIA", "PNEUMONIA"] * 2 + LABELS[4:]
    assert len(apply_corrections(copied, make_corrections({}))) == len(LABELS) - 2


def test_corrections_that_leave_a_class_without_images_are_refused():
    rows = [relabel(row, "PNEUMONIA") for row in range(0, 12, 2)]
    with pytest.raises(InputError, match="no image of NORMAL"):
        apply_corrections(RECORDS, make_corrections(*rows))


@pytest.mark.parametrize(
    ("rows", "expectation", "told"),
    [
        ([{"sha256": "f" * 64}], "corrections_known", "line 2, ffffffffffff"),
        ([{}, {"sha256": digest(1)}, relabel(0, "PNEUMONIA")], "corrections_once", "line 4"),
        ([{"action": "delete"}], "corrections_complete", "action 'delete'"),
        ([relabel(0, "COVID")], "corrections_complete", "label 'COVID'"),
        ([relabel(0, "NORMAL")], "corrections_complete", "is NORMAL already"),
        ([{"label": "NORMAL"}], "corrections_complete", "exclude with a label"),
        ([{"reviewer": " "}], "corrections_complete", "no reviewer"),
        ([{"reason": ""}], "corrections_complete", "no reason"),
        ([{"date": "26.11.2026"}], "corrections_complete", "date '26.11.2026'"),
    ],
)
def test_a_correction_that_cannot_hold_is_named_by_its_line(
    rows: list[dict[str, str]], expectation: str, told: str, tmp_path: Path
):
    message = check(make_corrections(*rows), tmp_path)
    assert f"{expectation}: expected" in message
    assert told in message


def test_good_corrections_pass_and_are_counted_on_the_page(tmp_path: Path):
    corrections = make_corrections(relabel(0, "PNEUMONIA"), {"sha256": digest(1)})
    checks = check_images(RECORDS, make_refused(0), PARAMS, DATA, tmp_path, corrections)
    raise_on_critical(checks, tmp_path)
    assert {found.name for found in checks} >= {"corrections_known", "corrections_once", "corrections_complete"}
    assert "corrections_once" in (tmp_path / "index.html").read_text()


def test_a_table_that_lacks_a_column_is_refused(tmp_path: Path):
    write_table(make_corrections({}).drop(columns="reason"), tmp_path / "corrections.csv")
    with pytest.raises(InputError, match="these columns"):
        read_corrections(tmp_path / "corrections.csv")
