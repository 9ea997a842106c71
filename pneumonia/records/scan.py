"""Read every file of the raw folder once and describe it."""

from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from pneumonia.core.files import sha256_bytes
from pneumonia.core.paths import list_files, to_text
from pneumonia.core.runtime import count_threads, map_threads
from pneumonia.core.tables import DTYPES, REFUSED_DTYPES
from pneumonia.images.decode import read_file
from pneumonia.images.refusal import ImageRefusedError
from pneumonia.images.workers import Decoders
from pneumonia.records.patients import find_patients


def scan_images(raw: Path, patients: str = "auto") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read everything below <raw>/<source folder>/<label>/ once, in parallel, and large JPEGs of one size twice.

    Args:
        raw: folder of the images.
        patients: rule that tells whose they are, data.patients.

    Returns:
        The images, columns as in DTYPES, and what was refused with its reason, as in REFUSED_DTYPES; sorted by path.

    Raises:
        InputError: as in `find_patients`.
    """
    files = list_files(raw)
    with closing(Decoders(count_threads())) as decoders:
        rows = map_threads(partial(_scan, decoders, raw), files, desc="images")
        table = pd.DataFrame(rows, columns=[*DTYPES, "reason"])
        table["path"] = [to_text(path.relative_to(raw)) for path in files]
        table["pixels_sha256"] = _digest_pictures(table, decoders, raw)
    refused = table["reason"].notna()
    images, rejected = table.loc[~refused, list(DTYPES)], table.loc[refused, list(REFUSED_DTYPES)]
    images = images.assign(patient_id=find_patients(images, raw, patients))
    return images.astype(DTYPES), rejected.astype(REFUSED_DTYPES)


def _scan(decoders: Decoders, raw: Path, file: Path) -> dict[str, Any]:
    if to_text(file) != str(file):  # neither a CSV nor DVC takes it
        return {"reason": "name is not UTF-8"}
    try:
        content = read_file(file)
        image = decoders.describe(content)
    except ImageRefusedError as error:
        return {"reason": str(error)}
    source_folder, label = file.relative_to(raw).parts[:2]
    return {
        "label": label,
        "source_folder": source_folder,
        "sha256": sha256_bytes(content),
        "pixels_sha256": image.pixels_sha256,
        "width": image.width,
        "height": image.height,
        "mode": image.mode,
        "contrast": round(image.contrast, 3),
        "modality": image.modality,
        "view": image.view,
        "body_part": image.body_part,
    }


def _digest_pictures(table: pd.DataFrame, decoders: Decoders, raw: Path) -> list[str]:
    """Return a digest per image that is the same for the same picture in other bytes.

    Those that were decoded at full size have one. Of the others, only images of one size can be one picture.
    """

    def digest(path: str, sha256: str) -> str:
        try:
            return decoders.digest(read_file(raw / path))
        except ImageRefusedError:  # too much at full size, so nothing can be said of its copies
            return sha256

    files = table[table["reason"].isna()].drop_duplicates("sha256")
    alike = files[files.duplicated(["width", "height"], keep=False) & files["pixels_sha256"].eq("")]
    digests = map_threads(digest, list(alike["path"]), list(alike["sha256"]), desc="pixels") if len(alike) else []
    found = dict(zip(alike["sha256"], digests, strict=True))
    return [row.pixels_sha256 or found.get(row.sha256, row.sha256) for row in table.itertuples()]  # pyright: ignore
