"""Decode images: the only module that does, for training and serving alike."""

import stat
import warnings
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path

import numpy as np
from PIL import Image

from pneumonia.core.dataset import Pixels
from pneumonia.core.files import sha256_bytes
from pneumonia.core.paths import find_format
from pneumonia.images.raster import read_raster
from pneumonia.images.refusal import MAX_BYTES, ImageRefusedError, refuse

# Filters are global and files are read in threads, so this one is set once. What pydicom warns of is read or refused.
warnings.filterwarnings("ignore", module="pydicom")
_SMALL = 2**18  # bytes of a JPEG up to which reduced decoding saves less than decoding a second time costs


@dataclass(frozen=True)
class ImageInfo:
    """What validation records of an image.

    Attributes:
        width: in pixels, of the upright image.
        height: in pixels.
        mode: Pillow's, or DICOM and photometric interpretation. "I;16 of 12 bits" holds fewer bits than it could, which
            only its largest value tells; "I;16, stated 12" says so itself.
        contrast: standard deviation of the grey values, 0 to 127.5.
        pixels_sha256: as `digest_pixels` returns it; empty for a large JPEG, which is decoded at a part of its size.
        modality: of DICOM, such as "DX"; empty where not stated.
        view: of DICOM, such as "PA"; empty where not stated.
        body_part: of DICOM, such as "CHEST"; empty where not stated.
    """

    width: int
    height: int
    mode: str
    contrast: float = 0
    pixels_sha256: str = ""
    modality: str = ""
    view: str = ""
    body_part: str = ""


def read_file(path: Path) -> bytes:
    """Read the content of a file.

    Raises:
        ImageRefusedError: the path is no file, or the file is gone, may not be read, or is too large.
    """
    try:
        kind = path.stat()
        if not (stat.S_ISREG(kind.st_mode) or stat.S_ISDIR(kind.st_mode)):  # reading it might never end
            raise ImageRefusedError("cannot be read: Is a pipe, socket or device")
        if kind.st_size > MAX_BYTES:
            raise ImageRefusedError(f"larger than {MAX_BYTES >> 20:,} MiB")
        return path.read_bytes()
    except OSError as error:
        raise ImageRefusedError(f"cannot be read: {error.strerror}") from None


def describe_image(content: bytes) -> ImageInfo:
    """Decode a file completely and describe its image.

    Raises:
        ImageRefusedError: the file is empty, damaged, truncated, too large, of several images or of another format.
    """
    reduced = len(content) > _SMALL and find_format(content) == "JPEG"
    grey, info = _decode(content, at_least=64 if reduced else 0)
    counts = np.array(Image.fromarray(grey).histogram())  # exact, and without a copy of eight bytes a pixel
    total, squares = (int(counts @ np.arange(256) ** power) for power in (1, 2))
    contrast = sqrt(grey.size * squares - total**2) / grey.size
    return replace(info, contrast=contrast, pixels_sha256="" if reduced else _digest(grey))


def read_image(content: bytes, size: int) -> Pixels:
    """Decode a file to upright grey and resize it to a square, bilinearly and without keeping the aspect ratio.

    A JPEG at least twice as large as needed is decoded at 1/2, 1/4 or 1/8 of its size, which is several times faster
    and changes pixels less than the interpolation does. Transparency is ignored; more bits are scaled to 8.

    Args:
        content: of a JPEG, PNG, TIFF, WebP, BMP or DICOM file.
        size: side of the square in pixels.

    Returns:
        Grey values 0 to 255, uint8, shape (size, size).

    Raises:
        ImageRefusedError: as in `describe_image`.
    """
    return stretch(_decode(content, at_least=size)[0], size)


def digest_pixels(content: bytes) -> str:
    """Return the SHA-256 of an image's size and grey values at full size: the same for one picture in any format.

    Args:
        content: of a file that `describe_image` accepts.
    """
    return _digest(_decode(content, at_least=0)[0])


def _digest(grey: Pixels) -> str:
    return sha256_bytes(b"%d %d " % grey.shape + grey.tobytes())


def stretch(grey: Pixels, size: int) -> Pixels:
    """Resize grey values, uint8 (height, width), to a square, uint8 (size, size)."""
    return np.asarray(Image.fromarray(grey).resize((size, size), Image.Resampling.BILINEAR))


def _decode(content: bytes, at_least: int) -> tuple[Pixels, ImageInfo]:
    """Return grey values, neither side reduced below `at_least`, and their description without the contrast.

    With 0 a JPEG is decoded in its own colours first: decoded to grey, it rounds otherwise than its copy as PNG.
    """
    if not content:
        refuse("empty file")
    if find_format(content) == "DICOM":
        from pneumonia.images.dicom import read_dicom  # pydicom is slow to import, and only DICOM needs it

        image = read_dicom(content)
        height, width = image.grey.shape
        return image.grey, ImageInfo(width, height, f"DICOM {image.photometric}", 0, "", *image.stated)
    grey, width, height, mode = read_raster(content, at_least)
    return grey, ImageInfo(width, height, mode)
