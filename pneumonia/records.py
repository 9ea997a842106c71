"""The table of films: one row per file, and what its name says about it."""

import re
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from pneumonia.compute import map_threads
from pneumonia.errors import InputError
from pneumonia.files import replacing, sha256_bytes
from pneumonia.images import ImageRefusedError, describe_film

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

# Kaggle: person7_bacteria_24, IM-0115-0001, NORMAL2-IM-0246-0001-0002. Mendeley: BACTERIA-1008087-0001.
# A person's number is the only grouping that cannot leak: it recurs in all folders and under both subtypes.
_PATIENT = (
    re.compile(r"^(person\d+)_(?:bacteria|virus)_\d+(?:_\d+)?$"),
    re.compile(r"^((?:NORMAL\d*-)?IM-\d+)-\d+(?:-\d+)?$"),
    re.compile(r"^(?:BACTERIA|VIRUS|NORMAL)-(\d+)-\d+$"),
)


def parse_patient(name: str) -> str | None:
    """Return the patient a file name stands for, None when it follows no known pattern."""
    stem = PurePosixPath(name).stem
    return next((match[1] for pattern in _PATIENT if (match := pattern.match(stem))), None)


def scan_films(raw: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read every file below <raw>/<source folder>/<label>/ once, in parallel.

    Returns:
        The records, and the refused files with their reason; both sorted by path.
    """
    files = sorted(p for p in raw.glob("*/*/*") if p.is_file())
    rows = map_threads(_scan, files, desc="films")  # Pillow and hashlib release the interpreter lock
    table = pd.DataFrame(rows, columns=[*DTYPES, "reason"]).assign(path=[p.relative_to(raw).as_posix() for p in files])
    refused = table["reason"].notna()
    films, rejected = table.loc[~refused, list(DTYPES)], table.loc[refused, list(REFUSED_DTYPES)]
    return films.astype(DTYPES), rejected.astype(REFUSED_DTYPES)


def _scan(file: Path) -> dict[str, Any]:
    content = file.read_bytes()
    try:
        film = describe_film(content)
    except ImageRefusedError as error:
        return {"reason": str(error)}
    path = "/".join(file.parts[-3:])
    return {
        "label": file.parent.name,
        "patient_id": parse_patient(file.name) or path,
        "source_folder": file.parent.parent.name,
        "sha256": sha256_bytes(content),
        "width": film.width,
        "height": film.height,
        "mode": film.mode,
        "contrast": round(film.contrast, 3),
    }


def count_unnamed(records: pd.DataFrame) -> int:
    """Count the films whose name follows no known pattern, each a patient of its own."""
    return int((records["patient_id"] == records["path"]).sum())


def merge_folders(records: pd.DataFrame, drop_duplicates: bool) -> pd.DataFrame:
    """Return one table of all source folders, sorted by path, the first of byte-identical files kept."""
    merged = records.sort_values("path", ignore_index=True)
    return merged.drop_duplicates("sha256", ignore_index=True) if drop_duplicates else merged


def count_films(records: pd.DataFrame, by: str) -> pd.DataFrame:
    """Count films per class in every value of column `by`, with totals."""
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
