"""Tables of images that were never drawn."""

import pandas as pd

from pneumonia.core.files import sha256_bytes
from pneumonia.core.tables import DTYPES, REFUSED_DTYPES


def make_records(rows: int = 1, **columns: list[str]) -> pd.DataFrame:
    """Return valid records with the given columns and plausible values in the others."""
    rows = len(next(iter(columns.values()))) if columns else rows
    labels = columns.get("label", ["NORMAL"] * rows)
    digests = columns.get("sha256", [sha256_bytes(bytes([row])) for row in range(rows)])
    plausible = {
        "path": [f"train/{label}/image{row}.jpeg" for row, label in enumerate(labels)],
        "label": labels,
        "patient_id": [f"person{row}" for row in range(rows)],
        "source_folder": "train",
        "sha256": digests,
        "pixels_sha256": digests,
        "width": 300,
        "height": 200,
        "mode": "L",
        "contrast": 50.125,
        "modality": "",
        "view": "",
        "body_part": "",
    }
    return pd.DataFrame(plausible | columns).astype(DTYPES)


def make_refused(files: int) -> pd.DataFrame:
    """Return a table of refused files."""
    rows = [(f"train/NORMAL/bad{number}.jpeg", "empty file") for number in range(files)]
    return pd.DataFrame(rows, columns=list(REFUSED_DTYPES)).astype(REFUSED_DTYPES)
