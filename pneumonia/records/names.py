"""Parse what a file name says of its image."""

import re
from pathlib import PurePosixPath

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
