"""Replace the PatientIDs of DICOM files by pseudonyms, which nobody can trace back without the key."""

import hmac
import os
import secrets
from pathlib import Path

from pneumonia.core.errors import InputError
from pneumonia.core.files import locked, project_home, replacing

VARIABLE, FILE = "PNEUMONIA_PATIENT_KEY", ".patient_key"


def pseudonymise(patient_id: bytes, key: bytes) -> str:
    """Return the HMAC-SHA256 (RFC 2104) of a PatientID, 64 hexadecimal digits; empty for an empty id."""
    return hmac.digest(key, patient_id, "sha256").hex() if patient_id else ""


def read_key() -> bytes:
    """Return the key: PNEUMONIA_PATIENT_KEY, or the file .patient_key of the project, which the first use makes.

    Raises:
        InputError: the file cannot be read, is empty, or is open to other users.
    """
    if value := os.environ.get(VARIABLE):
        return os.fsencode(value)
    path = project_home() / FILE
    with locked(project_home() / ".cache" / "patient_key", "making the key of pseudonyms"):
        if not path.exists():
            _make_key(path)
    try:
        key, mode = path.read_bytes().strip(), path.stat().st_mode & 0o777
    except OSError as error:
        raise _bad_key(f"{FILE} cannot be read: {error.strerror}.") from None
    if not key:
        raise _bad_key(f"{FILE} is empty.")
    if mode & 0o077:
        raise InputError(
            f"{FILE} is open to other users of this machine (mode {mode:o}).",
            expected="mode 600: whoever has the key can trace pseudonyms back",
            remedy=f"chmod 600 {FILE}, or where that has no effect, set {VARIABLE} and delete the file",
        )
    return key


def _make_key(path: Path) -> None:
    with replacing(path) as beside:
        beside.touch(mode=0o600)
        beside.write_text(f"{secrets.token_hex(32)}\n")


def _bad_key(what: str) -> InputError:
    remedy = f"restore {FILE}, set {VARIABLE}, or delete the file: with a new key each patient gets a new pseudonym"
    return InputError(what, expected="the key that turns PatientIDs into pseudonyms", remedy=remedy)
