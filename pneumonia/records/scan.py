"""Read every file of the raw folder once and describe it."""

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from pneumonia.core.files import sha256_bytes
from pneumonia.core.paths import to_text
from pneumonia.core.runtime import map_threads
from pneumonia.core.tables import DTYPES, REFUSED_DTYPES
from pneumonia.images.decode import describe_image, digest_pixels, read_file
from pneumonia.images.refusal import ImageRefusedError
from pneumonia.records.patients import find_patients


def scan_images(raw: Path, patients: str = "auto") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read everything below <raw>/<source folder>/<label>/ once, in parallel, and twice what may be one picture.

    Args:
        raw: folder of the images.
        patients: rule that tells whose they are, data.patients.

    Returns:
        The images, columns as in DTYPES, and what was refused with its reason, as in REFUSED_DTYPES; sorted by path.

    Raises:
        InputError: as in `find_patients`.
    """
    files = sorted(path for path in raw.glob("*/*/**/*") if not path.is_dir())
    rows = map_threads(partial(_scan, raw), files, desc="images")  # Pillow and hashlib release the interpreter lock
    table = pd.DataFrame(rows, columns=[*DTYPES, "reason"]).assign(path=[to_text(p.relative_to(raw)) for p in files])
    refused = table["reason"].notna()
    images, rejected = table.loc[~refused, list(DTYPES)], table.loc[refused, list(REFUSED_DTYPES)]
    images = images.assign(patient_id=find_patients(images, raw, patients), pixels_sha256=_digest_pictures(images, raw))
    return images.astype(DTYPES), rejected.astype(REFUSED_DTYPES)


def _scan(raw: Path, file: Path) -> dict[str, Any]:
    if to_text(file) != str(file):  # neither a CSV nor DVC takes it
        return {"reason": "name is not UTF-8"}
    try:
        content = read_file(file)
        image = describe_image(content)
    except ImageRefusedError as error:
        return {"reason": str(error)}
    source_folder, label = file.relative_to(raw).parts[:2]
    return {
        "label": label,
        "source_folder": source_folder,
        "sha256": sha256_bytes(content),
        "width": image.width,
        "height": image.height,
        "mode": image.mode,
        "contrast": round(image.contrast, 3),
        "modality": image.modality,
        "view": image.view,
        "body_part": image.body_part,
    }


def _digest_pictures(images: pd.DataFrame, raw: Path) -> list[str]:
    """Return a digest per image that is the same for the same picture in other bytes.

    Only images of one size can be one picture, so no other has to be decoded at full size.
    """
    files = images.drop_duplicates("sha256")
    alike = files[files.duplicated(["width", "height"], keep=False)]
    digests = map_threads(lambda path: digest_pixels(read_file(raw / path)), list(alike["path"]), desc="pixels")
    found: dict[str, str] = {sha256: sha256 for sha256 in files["sha256"]}
    found.update(zip(alike["sha256"], digests, strict=True))
    return [found[sha256] for sha256 in images["sha256"]]
