"""Turn the bytes of a file into pixels: the only place that does, for training and serving alike."""

import warnings
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image

warnings.simplefilter("error", Image.DecompressionBombWarning)  # refused in one way, not printed

Pixels = npt.NDArray[np.uint8]

FORMATS = ("JPEG", "PNG")
MAX_PIXELS = 64_000_000  # three times the largest digital chest film; more is a mistake or an attack


class ImageRefusedError(ValueError):
    """A file that is no usable film; the message is the reason."""


@dataclass(frozen=True)
class Film:
    """What validation keeps of a file: size in pixels, Pillow mode, standard deviation of its grey values."""

    width: int
    height: int
    mode: str
    contrast: float


def describe_film(content: bytes) -> Film:
    """Decode a file completely and describe it.

    Raises:
        ImageRefusedError: the file is empty, damaged, truncated, too large or of another format.
    """
    image = _open(content)
    width, height, mode = image.width, image.height, image.mode
    return Film(width, height, mode, float(_grey(image, at_least=64).std()))


def read_film(content: bytes, size: int) -> Pixels:
    """Decode a file to grey and stretch it to a square.

    A JPEG at least twice as large as needed is decoded at 1/2, 1/4 or 1/8 scale, which changes pixels by less than
    the interpolation does and is several times faster. Transparency is ignored; 16 bits are scaled to 8.

    Args:
        content: bytes of a JPEG or PNG file.
        size: side of the square in pixels.

    Returns:
        Grey values 0 to 255, uint8, shape (size, size).

    Raises:
        ImageRefusedError: as in `describe_film`.
    """
    grey = Image.fromarray(_grey(_open(content), at_least=size))
    return np.asarray(grey.resize((size, size), Image.Resampling.BILINEAR))


def _open(content: bytes) -> Image.Image:
    if not content:
        raise ImageRefusedError("empty file")
    try:
        image = Image.open(BytesIO(content), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageRefusedError(f"more than {MAX_PIXELS:,} pixels") from None
    except (OSError, SyntaxError, ValueError):
        raise ImageRefusedError(f"not a {' or '.join(FORMATS)} file") from None
    if image.width * image.height > MAX_PIXELS:
        raise ImageRefusedError(f"more than {MAX_PIXELS:,} pixels")
    return image


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
