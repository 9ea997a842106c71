"""Parse the file names of the published data sets: the one place that does."""

import re
from pathlib import PurePosixPath

# Kaggle: person7_bacteria_24, IM-0115-0001, NORMAL2-IM-0246-0001-0002. Mendeley: BACTERIA-1008087-0001.
# A person keeps one number in every folder and under both kinds of pneumonia, so only the number groups without a leak.
_PATIENTS = (
    re.compile(r"(person\d+)_(?:bacteria|virus)_\d+(?:_\d+)?"),
    re.compile(r"((?:NORMAL\d*-)?IM-\d+)-\d+(?:-\d+)?"),
    re.compile(r"(?:BACTERIA|VIRUS|NORMAL)-(\d+)-\d+"),
)
# Looser than the patient's: a wrong kind moves one image to another subgroup, a wrong patient leaks it into training.
_KIND = re.compile(r"(?:person\d+_)?(bacteria|virus)[-_]\d", re.IGNORECASE)


def parse_patient(name: str) -> str | None:
    """Return the patient that a file name or path states, None if it follows no known pattern."""
    stem = PurePosixPath(name).stem
    return next((match[1] for pattern in _PATIENTS if (match := pattern.fullmatch(stem))), None)


def parse_kind(name: str) -> str | None:
    """Return the kind of pneumonia that a file name or path states, "bacteria" or "virus", None if it states none."""
    match = _KIND.match(PurePosixPath(name).name)
    return match[1].lower() if match else None
