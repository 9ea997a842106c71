"""Bring the table that states whose each image is."""

from pathlib import Path

from pneumonia.core.errors import InputError
from pneumonia.core.names import is_table
from pneumonia.core.params import DataParams


def find_table(data: DataParams) -> Path | None:
    """Return the table that `data.patients` names, None if it names none.

    Raises:
        InputError: there is no such file.
    """
    if not is_table(data.patients):
        return None
    path = data.path.expanduser() / data.patients
    if not path.is_file():
        raise InputError(
            f"data.patients is {data.patients}, and {path} is {'not a file' if path.exists() else 'missing'}.",
            expected="a table below data.path",
            remedy="put it there, or correct data.patients or data.path",
        )
    return path
