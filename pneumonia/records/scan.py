"""Read every file of the raw folder once and describe it."""

from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from pneumonia.core.files import sha256_bytes
from pneumonia.core.names import parse_patient
from pneumonia.core.runtime import count_threads, map_threads
from pneumonia.core.tables import DTYPES, REFUSED_DTYPES
from pneumonia.images.decode import read_file
from pneumonia.images.refusal import ImageRefusedError
from pneumonia.images.workers import Decoders


def scan_images(raw: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read everything at <raw>/<source folder>/<label>/ once, in parallel.

    Returns:
        The images, columns as in DTYPES, and what was refused with its reason, as in REFUSED_DTYPES; sorted by path.
    """
    files = sorted(raw.glob("*/*/*"))
    with closing(Decoders(count_threads())) as decoders:
        rows = map_threads(partial(_scan, decoders), files, desc="images")
    table = pd.DataFrame(rows, columns=[*DTYPES, "reason"]).assign(path=[p.relative_to(raw).as_posix() for p in files])
    refused = table["reason"].notna()
    images, rejected = table.loc[~refused, list(DTYPES)], table.loc[refused, list(REFUSED_DTYPES)]
    return images.astype(DTYPES), rejected.astype(REFUSED_DTYPES)


def _scan(decoders: Decoders, file: Path) -> dict[str, Any]:
    try:
        content = read_file(file)
        image = decoders.describe(content)
    except ImageRefusedError as error:
        return {"reason": str(error)}
    path = "/".join(file.parts[-3:])
    return {
        "label": file.parent.name,
        "patient_id": parse_patient(path) or path,
        "source_folder": file.parent.parent.name,
        "sha256": sha256_bytes(content),
        "width": image.width,
        "height": image.height,
        "mode": image.mode,
        "contrast": round(image.contrast, 3),
    }
