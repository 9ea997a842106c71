"""Show the names of files, which may be any bytes on Linux, and tell which files may be images and of which format."""

import os
import re
import stat
from pathlib import Path

SUFFIXES = (
    *(".jpeg", ".jpg", ".jpe", ".jfif", ".png", ".dcm", ".dicom", ".ima"),
    *(".tif", ".tiff", ".webp", ".bmp", ".heic", ".heif"),
)
# How a file of each format begins, whatever its name: a preamble of DICOM may look like any other format.
_BEGINNINGS = {
    "DICOM": rb".{128}DICM",
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "WEBP": rb"RIFF.{4}WEBP",
    "BMP": rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0",  # the sizes that its second header may have
    "HEIC": rb".{4}ftyp(?:hei|hev|mif1|msf1)",
    "AVIF": rb".{4}ftypavi[fs]",
}
_BEGINNING = re.compile(b"|".join(b"(?P<%s>%s)" % (k.encode(), v) for k, v in _BEGINNINGS.items()), re.DOTALL)


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
        return bool(find_format(file.read(132)))


def find_format(content: bytes) -> str:
    """Return the format as which a file begins: one that can be read, or HEIC or AVIF; empty for any other."""
    match = _BEGINNING.match(content)
    return match.lastgroup or "" if match else ""


def list_files(raw: Path) -> list[Path]:
    """Return every file below the class folders <raw>/<source folder>/<label>/, sorted."""
    return sorted(path for path in raw.glob("*/*/**/*") if not path.is_dir())
