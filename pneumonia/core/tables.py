"""The CSV tables that stages hand on, and the names of classes and splits."""

from pathlib import Path

import pandas as pd

from pneumonia.core.errors import InputError
from pneumonia.core.files import replacing

CLASSES = ("NORMAL", "PNEUMONIA")  # index is the label's number
SPLITS = ("train", "val", "test")
DTYPES = {
    "path": "str",  # below the raw folder, with /
    "label": "str",
    "patient_id": "str",
    "source_folder": "str",  # train, val, test or all
    "sha256": "str",
    "width": "int64",  # pixels
    "height": "int64",
    "mode": "str",  # Pillow's, or DICOM and photometric interpretation
    "contrast": "float64",  # standard deviation of grey values
}
REFUSED_DTYPES = {"path": "str", "reason": "str"}


def count_images(records: pd.DataFrame, by: str) -> pd.DataFrame:
    """Count images per class in every value of column `by`, with totals."""
    return pd.crosstab(records[by], records["label"], margins=True, margins_name="all")


def read_table(path: Path, dtypes: dict[str, str]) -> pd.DataFrame:
    """Read a CSV table, its columns and types checked.

    Raises:
        InputError: a column is missing or holds something else.
    """
    try:
        return pd.read_csv(path, dtype=dtypes, usecols=list(dtypes), keep_default_na=False)[list(dtypes)]  # pyright: ignore
    except ValueError as error:
        raise InputError(
            f"{path} is no table of this project: {error}.", expected=f"columns {', '.join(dtypes)}", remedy="dvc repro"
        ) from None


def read_records(path: Path) -> pd.DataFrame:
    """Read a records table; a column `split` comes along when the table has one."""
    with path.open(errors="replace") as file:
        split = "split" in file.readline().strip().split(",")
    return read_table(path, DTYPES | {"split": "str"} if split else DTYPES)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, whole or not at all."""
    with replacing(path) as beside:
        table.to_csv(beside, index=False, lineterminator="\n")
