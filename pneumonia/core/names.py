"""Know the names of classes and splits, and those that files and folders of data sets have: the one place that does."""

import re
from pathlib import PurePosixPath

CLASSES = ("NORMAL", "PNEUMONIA")  # the index is the label's number
SPLITS = ("train", "val", "test")
CLASS_FOLDERS = {"normal": "NORMAL", "pneumonia": "PNEUMONIA"}  # in lower case, and the class that each stands for
SPLIT_FOLDERS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
RULES = ("auto", "folder", "dicom", "each_image")  # of data.patients, beside a table and a pattern
TABLES = (".csv", ".parquet")

# A person keeps one number in every folder and under both kinds of pneumonia, so only the number groups without a leak.
# RSNA's name, a UUID, is missing: its "patientId" is another one for each image, also of one patient.
_PATIENTS = tuple(
    re.compile(f"(?:.*/)?{name}", re.DOTALL)
    for name in (
        # Kaggle: person7_bacteria_24, IM-0115-0001, NORMAL2-IM-0246-0001-0002. Mendeley: BACTERIA-1008087-0001.
        r"(person\d+)_(?:bacteria|virus)_\d+(?:_\d+)?",
        r"((?:NORMAL\d*-)?IM-\d+)-\d+(?:-\d+)?",
        r"(?:BACTERIA|VIRUS|NORMAL)-(\d+)-\d+",
        r"(000[0-3]\d{4})_\d{3}",  # NIH ChestX-ray14: patients 1 to 30805, so dates such as 20240131_001 are none
        r"(patient\d{5})[/_]study\d+[/_]view\d+_(?:frontal|lateral)",  # CheXpert
        r"(p\d{8})/s\d{8}/[0-9a-f]{8}(?:-[0-9a-f]{8}){4}",  # MIMIC-CXR-JPG
    )
)
_DICOM = ("", ".dcm", ".dicom", ".ima")
# Looser than the patient's: a wrong kind moves one image to another subgroup, a wrong patient leaks it into training.
_KIND = re.compile(r"(?:person\d+_)?(bacteria|virus)[-_]\d", re.IGNORECASE)


def parse_patient(path: str) -> str | None:
    """Return the patient that a file name, or a path with the folders of a release, states; None if it states none."""
    file = PurePosixPath(path)
    if file.name.startswith("IM-") and file.suffix.lower() in _DICOM:  # series and image, as OsiriX and Horos export
        return None
    stem = str(file.parent / file.stem)
    return next((match[1] for pattern in _PATIENTS if (match := pattern.fullmatch(stem))), None)


def parse_kind(name: str) -> str | None:
    """Return the kind of pneumonia that a file name or path states, "bacteria" or "virus", None if it states none."""
    match = _KIND.match(PurePosixPath(name).name)
    return match[1].lower() if match else None


def place_image(path: str) -> str | None:
    """Return where `fetch` puts a file, <source folder>/<label>/<path below it>; None if it is in no class folder.

    Args:
        path: of the file, from any folder above the class folder, in the writing of Windows too.
    """
    parts = PurePosixPath(path if "/" in path else path.replace("\\", "/")).parts
    depth = max((i for i, part in enumerate(parts[:-1]) if part.lower() in CLASS_FOLDERS), default=None)
    if depth is None:
        return None
    split = SPLIT_FOLDERS.get(parts[depth - 1].lower(), "all") if depth else "all"
    return "/".join((split, CLASS_FOLDERS[parts[depth].lower()], *parts[depth + 1 :]))


def is_table(rule: str) -> bool:
    """Tell whether a value of `data.patients` names a table."""
    return PurePosixPath(rule).suffix.lower() in TABLES


def check_rule(rule: str) -> str:
    """Return a value of `data.patients`, raise a ValueError if it is none."""
    path = PurePosixPath(rule)
    if is_table(rule) and (path.is_absolute() or ".." in path.parts):
        raise ValueError("a table must lie below data.path, and be named from there")
    if rule not in RULES and not is_table(rule) and "patient" not in _compile(rule).groupindex:
        raise ValueError(
            f"must be {', '.join(RULES)}, a table ({' or '.join(TABLES)}) below data.path, "
            "or a regular expression with a group (?P<patient>...)"
        )
    return rule


def _compile(rule: str) -> re.Pattern[str]:
    try:
        return re.compile(rule)
    except re.error as error:
        raise ValueError(f"must be a regular expression: {error}") from None
