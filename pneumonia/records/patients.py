"""Find out whose each image is, by the rule `data.patients`."""

import re
from pathlib import Path, PurePosixPath

import pandas as pd
from pandas.api.types import is_float_dtype

from pneumonia.core.errors import EXAMPLES, InputError
from pneumonia.core.names import CLASS_FOLDERS, is_table, parse_patient, place_image
from pneumonia.core.runtime import map_threads
from pneumonia.images.decode import read_file
from pneumonia.records.pseudonyms import pseudonymise, read_key


def find_patients(images: pd.DataFrame, raw: Path, rule: str) -> list[str]:
    """Return the patient of each image, empty where the rule states none.

    Args:
        images: columns path and label.
        raw: folder of the images, and of the table if the rule names one.
        rule: data.patients.

    Raises:
        InputError: the table or the key of pseudonyms cannot be used.
    """
    if is_table(rule):
        return _look_up(images, raw / PurePosixPath(rule).name)
    if rule == "dicom":
        return _read_headers([raw / path for path in images["path"]])
    return [_parse(path.split("/", 2)[2], rule) for path in images["path"]]


def _parse(path: str, rule: str) -> str:
    """Return the patient that a path below the class folder states."""
    if rule == "each_image":
        return ""
    if rule == "auto":
        return parse_patient(path) or ""
    if rule == "folder":
        return path.rpartition("/")[0].partition("/")[0]
    match = re.search(rule, path)
    return match["patient"] or "" if match else ""


def _read_headers(files: list[Path]) -> list[str]:
    from pneumonia.images.dicom import read_patient_id  # pydicom is slow to import

    key = read_key()
    return map_threads(lambda file: pseudonymise(read_patient_id(read_file(file)), key), files, desc="patients")


def _look_up(images: pd.DataFrame, path: Path) -> list[str]:
    table = _read_table(path)
    by_path = "path" in table
    places = (table["path"].map(place_image) if by_path else table["name"]).astype("string").str.normalize("NFC")
    rows = table.assign(place=places)[places.notna()]
    _refuse(path, rows.loc[rows.duplicated("place"), "place"], "more than one row")
    keys = images["path"] if by_path else images["path"].str.rpartition("/")[2]
    keys = keys.str.normalize("NFC")  # macOS and Windows write umlauts and accents differently
    found = rows.set_index("place").reindex(keys)
    if len(images) and found["patient"].isna().all():
        raise _bad_table(path, f"names none of the images, such as {keys.iloc[0]}")
    if "label" in found:
        stated = found["label"].fillna("").str.lower().tolist()
        pairs = zip(stated, images["label"], strict=True)
        differs = [CLASS_FOLDERS.get(label, label) not in ("", own) for label, own in pairs]
        _refuse(path, images.loc[differs, "path"], "another label than the folder")
    return found["patient"].fillna("").tolist()


def _read_table(path: Path) -> pd.DataFrame:
    """Read a table of patients; all its known columns hold text, empty where a cell is."""
    try:
        if path.suffix.lower() == ".csv":
            table = pd.read_csv(path, dtype="str", keep_default_na=False, index_col=False, encoding="utf-8-sig")
        else:
            table = pd.read_parquet(path, dtype_backend="numpy_nullable")
    except (OSError, ValueError) as error:
        raise _bad_table(path, f"cannot be read: {error}") from None
    if "patient" not in table or not {"path", "name"} & set(table):
        raise _bad_table(path, f"has the columns {', '.join(map(str, table))}")
    known = table[[name for name in ("path", "name", "patient", "label") if name in table]]
    if broken := [name for name in known if is_float_dtype(known[name])]:
        raise _bad_table(path, f"has fractions as {', '.join(map(str, broken))}, which would change ids")
    return known.astype("string").fillna("").apply(lambda column: column.str.strip())


def _refuse(table: Path, images: pd.Series, why: str) -> None:
    if len(images):
        more = ", ..." if len(images) > EXAMPLES else ""
        raise _bad_table(table, f"has {why} for {', '.join(images.head(EXAMPLES))}{more}")


def _bad_table(path: Path, what: str) -> InputError:
    return InputError(
        f"{path.name} {what}.",
        expected="a row per image, with columns path (such as train/NORMAL/1.png) or name (1.png), patient, and label "
        "(NORMAL or PNEUMONIA) if it likes",
        remedy="correct the table, or choose another data.patients (docs/data.md, Patients)",
    )
