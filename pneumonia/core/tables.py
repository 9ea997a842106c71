"""The CSV tables that stages exchange, and the names of classes and splits."""

from pathlib import Path

import pandas as pd

from pneumonia.core.errors import InputError
from pneumonia.core.files import replacing

CLASSES = ("NORMAL", "PNEUMONIA")  # the index is the label's number
SPLITS = ("train", "val", "test")
DTYPES = {
    "path": "str",  # below the raw folder, with /
    "label": "str",  # one of CLASSES
    "patient_id": "str",
    "source_folder": "str",  # train, val, test or all
    "sha256": "str",  # of the file, 64 hexadecimal digits
    "width": "int64",  # pixels
    "height": "int64",
    "mode": "str",  # of the pixels, as in images.decode.ImageInfo
    "contrast": "float64",  # standard deviation of the grey values, 0 to 127.5
    "modality": "str",  # as DICOM states it, such as DX; empty where it does not
    "view": "str",  # such as PA
    "body_part": "str",  # such as CHEST
}
REFUSED_DTYPES = {"path": "str", "reason": "str"}


def read_table(path: Path, dtypes: dict[str, str]) -> pd.DataFrame:
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
            remedy="dvc repro",
        ) from None


def read_records(path: Path) -> pd.DataFrame:
    """Read a table of images, columns as in DTYPES, and `split` if the table has it.

    Raises:
        InputError: as in `read_table`.
    """
    with path.open(errors="replace") as file:
        split = "split" in file.readline().strip().split(",")
    return read_table(path, DTYPES | {"split": "str"} if split else DTYPES)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, whole or not at all."""
    with replacing(path) as beside:
        table.to_csv(beside, index=False, lineterminator="\n")
