"""Corrections that reviewers made to labels: data beside the images, which stay as they are."""

from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd

from pneumonia.core.errors import InputError
from pneumonia.core.names import CLASSES
from pneumonia.core.tables import read_table

COLUMNS = {
    "sha256": "str",  # of an image's file
    "action": "str",  # relabel or exclude
    "label": "str",  # one of CLASSES with relabel, else empty
    "reviewer": "str",
    "reason": "str",
    "date": "str",  # as 2026-11-26
}


def read_corrections(path: Path) -> pd.DataFrame:
    """Read a table of corrections, columns as in COLUMNS; its rows may still be wrong, see `judge_corrections`.

    Raises:
        InputError: a column is missing.
    """
    return read_table(path, COLUMNS, remedy=f"give {path} these columns; without corrections only their names")


def judge_corrections(corrections: pd.DataFrame, records: pd.DataFrame) -> pd.DataFrame:
    """Return the corrections with what is wrong about each; all but the first column is empty where nothing is.

    Returns:
        Columns path (number of the line in the file and start of its digest), unknown, repeated and malformed.
    """
    known = records.drop_duplicates("sha256").set_index("sha256")
    picture = corrections["sha256"].map(known["pixels_sha256"])
    lines = [f"line {line}, {sha256[:12]}" for line, sha256 in enumerate(corrections["sha256"], start=2)]
    present = corrections["sha256"].map(known["label"])
    return pd.DataFrame({
        "path": lines,
        "unknown": pd.Series("no image that was read has this digest", corrections.index).where(picture.isna()),
        "repeated": pd.Series("another line corrects this picture", corrections.index).where(
            picture.notna() & picture.duplicated(keep=False)
        ),
        "malformed": [_find_fault(*row) for row in zip(corrections.to_dict("records"), present, strict=True)],
    })  # fmt: skip


def _find_fault(row: dict[Any, str], present: object) -> str | None:
    if row["action"] not in ("relabel", "exclude"):
        return f"action {row['action']!r}"
    if row["action"] == "exclude" and row["label"]:
        return "exclude with a label"
    if row["action"] == "relabel" and row["label"] not in CLASSES:
        return f"label {row['label']!r}"
    if row["action"] == "relabel" and row["label"] == present:
        return f"is {present} already"
    if missing := [name for name in ("reviewer", "reason") if not row[name].strip()]:
        return f"no {missing[0]}"
    try:
        date.fromisoformat(row["date"])
    except ValueError:
        return f"date {row['date']!r}"
    return None


def apply_corrections(records: pd.DataFrame, corrections: pd.DataFrame) -> pd.DataFrame:
    """Return the images without those that reviewers excluded, the others with the labels that reviewers gave them.

    A correction holds for a picture: copies of it in other files are corrected too.

    Args:
        records: columns as in tables.DTYPES.
        corrections: columns as in COLUMNS; each passed `judge_corrections`.

    Raises:
        InputError: a class is left without images.
    """
    found = find_corrected(records, corrections)
    table = records.assign(label=found["label"].where(found["action"] == "relabel", records["label"]))
    table = table[found["action"] != "exclude"].reset_index(drop=True)
    if emptied := [name for name in CLASSES if name in set(records["label"]) - set(table["label"])]:
        raise InputError(
            f"Corrections leave no image of {emptied[0]}.",
            expected="images of both classes",
            remedy="correct data/corrections.csv",
        )
    return table


def find_corrected(records: pd.DataFrame, corrections: pd.DataFrame) -> pd.DataFrame:
    """Return action and label that reviewers gave each image, empty for none; rows as those of `records`."""
    pictures = records.drop_duplicates("sha256").set_index("sha256")["pixels_sha256"]
    given = corrections.assign(picture=corrections["sha256"].map(pictures)).set_index("picture")[["action", "label"]]
    given = given[given.index.notna() & ~given.index.duplicated()]  # before they are checked there may be such
    return given.reindex(records["pixels_sha256"]).fillna("").set_axis(records.index)
