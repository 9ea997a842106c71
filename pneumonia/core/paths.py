"""Show the names of files, which may be any bytes on Linux, and tell which files may be images."""

import os
import re
import stat
from pathlib import Path

SUFFIXES = (
    *(".jpeg", ".jpg", ".jpe", ".jfif", ".png", ".dcm", ".dicom", ".ima"),
    *(".tif", ".tiff", ".webp", ".bmp", ".heic", ".heif"),
)
# How JPEG, PNG, TIFF, BMP, WebP, HEIC and DICOM begin, for files whose suffix says nothing.
_BEGINNING = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|II\*\0|MM\0\*|BM.{4}\0{4}|RIFF.{4}WEBP|.{4}ftyp(hei|mif)|.{128}DICM", re.DOTALL
)


def to_text(name: str | Path) -> str:
    r"""Return a name as text that any file and stream can hold: a byte that is not UTF-8 becomes \x and its digits."""
    return os.fsencode(name).decode(errors="backslashreplace")


def to_line(name: str | Path) -> str:
    r"""Return a name as one line for people: what breaks lines, moves the cursor or cannot be seen becomes \n, \x1b."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in to_text(name))


def shorten(text: str, longest: int) -> str:
    """Return text without its middle if it is longer than `longest` characters, which must be at least 20."""
    return text if len(text) <= longest else f"{text[: longest - 18]}…{text[-17:]}"


def may_be_image(path: Path) -> bool:
    """Tell whether a file has an image's suffix or begins as an image does; true, too, if it cannot be opened."""
    if path.name.upper() == "DICOMDIR":  # lists the images of a disc
        return False
    try:
        # Opening a pipe would wait for a writer.
        return has_suffix(path.name) or (stat.S_ISREG(path.stat().st_mode) and _begins_like_image(path))
    except OSError:
        return True


def has_suffix(name: str) -> bool:
    """Tell whether a name ends as an image's, in upper or lower case."""
    return name.lower().endswith(SUFFIXES)


def _begins_like_image(path: Path) -> bool:
    with path.open("rb") as file:
        return _BEGINNING.match(file.read(132)) is not None
