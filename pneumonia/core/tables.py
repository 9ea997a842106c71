"""The CSV tables that stages exchange."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, Literal

import pandas as pd

from pneumonia.core.errors import InputError
from pneumonia.core.files import replacing

DTYPES = {
    "path": "str",  # below the raw folder, with /
    "label": "str",  # one of CLASSES
    "patient_id": "str",  # empty where it is unknown
    "source_folder": "str",  # train, val, test or all
    "sha256": "str",  # of the file, 64 hexadecimal digits
    "pixels_sha256": "str",  # of the grey pixels; of the file for a large JPEG that is the only image of its size
    "width": "int64",  # pixels
    "height": "int64",
    "mode": "str",  # of the pixels, as in images.decode.ImageInfo
    "contrast": "float64",  # standard deviation of the grey values, 0 to 127.5
    "modality": "str",  # as DICOM states it, such as DX; empty where it does not
    "view": "str",  # such as PA
    "body_part": "str",  # such as CHEST
}
REFUSED_DTYPES = {"path": "str", "reason": "str"}


def read_table(path: Path, dtypes: dict[str, str], remedy: str = "dvc repro") -> pd.DataFrame:
    """Read a CSV table and check its columns and types.

    Raises:
        InputError: a column is missing or has another type.
    """
    try:
        return pd.read_csv(path, dtype=dtypes, usecols=list(dtypes), keep_default_na=False)[list(dtypes)]  # pyright: ignore
    except ValueError as error:
        raise InputError(
            f"{path} is not a table of this pipeline: {error}.",
            expected=f"columns {', '.join(dtypes)}",
            remedy=remedy,
        ) from None


def read_records(path: Path) -> pd.DataFrame:
    """Read a table of images, columns as in DTYPES, and `split` if the table has it.

    Raises:
        InputError: as in `read_table`.
    """
    with path.open(errors="replace", newline="") as file:
        split = "split" in next(csv.reader(file), [])
    return read_table(path, DTYPES | {"split": "str"} if split else DTYPES)


def read_splits(path: Path) -> pd.DataFrame:
    """Read the table of the split stage: columns as in DTYPES, and `split`.

    Raises:
        InputError: there is none, or it is another table.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist.", expected="images that were split", remedy="dvc repro split")
    return read_table(path, DTYPES | {"split": "str"}, remedy="dvc repro split")


def read_predictions(file: str | Path | IO[bytes]) -> pd.DataFrame:
    """Read the predictions on the test images, as the evaluate stage wrote them."""
    return pd.read_csv(file, dtype={"path": "str", "sha256": "str", "patient_id": "str"}, keep_default_na=False)


def count_unknown(records: pd.DataFrame) -> int:
    """Return of how many images the patient is unknown."""
    return int(records["patient_id"].eq("").sum())


def tell_apart(records: pd.DataFrame) -> pd.Series:
    """Return whom each image counts for: its patient, or itself, by its digest, where the patient is unknown."""
    return records["patient_id"].where(records["patient_id"] != "", records["sha256"])


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, whole or not at all."""
    text = (cell for _, column in table.select_dtypes(exclude="number").items() for cell in column)
    with replacing(path) as beside:
        table.to_csv(beside, index=False, lineterminator="\n", quoting=choose_quoting(text))


def choose_quoting(cells: Iterable[Any]) -> Literal[0, 2]:
    """Return how to write cells as CSV that ends its lines in a newline, so that every reader finds the same cells.

    Python before 3.13 leaves a carriage return without quotes there, and readers take that for the end of a row.
    """
    return csv.QUOTE_NONNUMERIC if any("\r" in str(cell) for cell in cells) else csv.QUOTE_MINIMAL
