"""Read every file of the raw folder once and describe it."""

from pathlib import Path
from typing import Any

import pandas as pd

from pneumonia.core.files import sha256_bytes
from pneumonia.core.names import parse_patient
from pneumonia.core.runtime import map_threads
from pneumonia.core.tables import DTYPES, REFUSED_DTYPES
from pneumonia.images.decode import describe_image, read_file
from pneumonia.images.refusal import ImageRefusedError


def scan_images(raw: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read everything at <raw>/<source folder>/<label>/ once, in parallel.

    Returns:
        The images, columns as in DTYPES, and what was refused with its reason, as in REFUSED_DTYPES; sorted by path.
    """
    files = sorted(raw.glob("*/*/*"))
    rows = map_threads(_scan, files, desc="images")  # Pillow and hashlib release the interpreter lock
    table = pd.DataFrame(rows, columns=[*DTYPES, "reason"]).assign(path=[p.relative_to(raw).as_posix() for p in files])
    refused = table["reason"].notna()
    images, rejected = table.loc[~refused, list(DTYPES)], table.loc[refused, list(REFUSED_DTYPES)]
    return images.astype(DTYPES), rejected.astype(REFUSED_DTYPES)


def _scan(file: Path) -> dict[str, Any]:
    try:
        content = read_file(file)
        image = describe_image(content)
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
        "modality": image.modality,
        "view": image.view,
        "body_part": image.body_part,
    }
