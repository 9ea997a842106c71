"""Turn the bytes of a file into pixels: the only place that does, for training and serving alike."""

import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from pneumonia.core.dataset import Pixels
from pneumonia.images.refusal import MAX_PIXELS, ImageRefusedError

warnings.simplefilter("error", Image.DecompressionBombWarning)  # refused in one way, not printed
# What pydicom warns of is read all the same, or refused. Not set where it is read: that is in threads.
warnings.filterwarnings("ignore", module="pydicom")
FORMATS = ("JPEG", "PNG")  # of Pillow; DICOM is read beside them


@dataclass(frozen=True)
class ImageInfo:
    """What validation keeps of a file: size in pixels, how it stores them, standard deviation of its grey values."""

    width: int
    height: int
    mode: str  # Pillow's, or DICOM and photometric interpretation
    contrast: float


def read_file(path: Path) -> bytes:
    """Return the content of a file.

    Raises:
        ImageRefusedError: it cannot be read: it is gone, a folder, a pipe, a dangling link, or access is denied.
    """
    try:
        if path.is_fifo():  # opening it would wait for a writer
            raise ImageRefusedError("cannot be read: Is a pipe")
        return path.read_bytes()
    except OSError as error:
        raise ImageRefusedError(f"cannot be read: {error.strerror}") from None


def describe_image(content: bytes) -> ImageInfo:
    """Decode a file completely and describe it.

    Raises:
        ImageRefusedError: the file is empty, damaged, truncated, too large or of another format.
    """
    image, mode = _open(content)
    width, height = image.size
    return ImageInfo(width, height, mode, float(_grey(image, at_least=64).std()))


def read_image(content: bytes, size: int) -> Pixels:
    """Decode a file to grey and stretch it to a square.

    A JPEG at least twice as large as needed is decoded at 1/2, 1/4 or 1/8 scale, which changes pixels by less than
    the interpolation does and is several times faster. Transparency is ignored; 16 bits are scaled to 8.

    Args:
        content: bytes of a JPEG, PNG or DICOM file.
        size: side of the square in pixels.

    Returns:
        Grey values 0 to 255, uint8, shape (size, size).

    Raises:
        ImageRefusedError: as in `describe_image`.
    """
    return stretch(_grey(_open(content)[0], at_least=size), size)


def stretch(grey: Pixels, size: int) -> Pixels:
    """Stretch grey values (height, width) to a square (size, size)."""
    return np.asarray(Image.fromarray(grey).resize((size, size), Image.Resampling.BILINEAR))


def _open(content: bytes) -> tuple[Image.Image, str]:
    """Return an image, which may still have to be decoded, and its mode."""
    if not content:
        raise ImageRefusedError("empty file")
    if content[128:132] == b"DICM":
        from pneumonia.images.dicom import (
            read_dicom,
        )  # pydicom is slow to import, and most stages and images do without

        grey, photometric = read_dicom(content)
        return Image.fromarray(grey), f"DICOM {photometric}"
    try:
        image = Image.open(BytesIO(content), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageRefusedError(f"more than {MAX_PIXELS:,} pixels") from None
    except (OSError, SyntaxError, ValueError):
        raise ImageRefusedError(f"not a {', '.join(FORMATS)} or DICOM file") from None
    if image.width * image.height > MAX_PIXELS:
        raise ImageRefusedError(f"more than {MAX_PIXELS:,} pixels")
    return image, image.mode


def _grey(image: Image.Image, at_least: int) -> Pixels:
    """Return all grey values as uint8 (height, width), each side at least `at_least` where the file has as many."""
    try:
        image.draft("L", (at_least, at_least))
        image.load()
        image.info.pop("transparency", None)  # Pillow warns of what it cannot keep
        if image.mode.startswith("I;16"):
            return (np.asarray(image, dtype=np.uint16) // 257).astype(np.uint8)
        return np.asarray(image.convert("L"))
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageRefusedError(f"damaged or truncated: {error}") from None
