"""Decode images: the only module that does, for training and serving alike."""

import stat
import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from pneumonia.core.dataset import Pixels
from pneumonia.core.files import sha256_bytes
from pneumonia.images.refusal import MAX_BYTES, MAX_PIXELS, ImageRefusedError

warnings.simplefilter("error", Image.DecompressionBombWarning)  # a reason to refuse a file, not to print
# Filters are global and files are read in threads, so this one is set once. What pydicom warns of is read or refused.
warnings.filterwarnings("ignore", module="pydicom")
FORMATS = ("JPEG", "PNG")  # that Pillow may read; DICOM comes on top


@dataclass(frozen=True)
class ImageInfo:
    """What validation records of an image.

    Attributes:
        width: in pixels.
        height: in pixels.
        mode: Pillow's, or DICOM and photometric interpretation.
        contrast: standard deviation of the grey values, 0 to 127.5.
    """

    width: int
    height: int
    mode: str
    contrast: float


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
        ImageRefusedError: the file is empty, damaged, truncated, too large or of another format.
    """
    image, mode = _open(content)
    width, height = image.size
    return ImageInfo(width, height, mode, float(_grey(image, at_least=64).std()))


def read_image(content: bytes, size: int) -> Pixels:
    """Decode a file to grey and resize it to a square, bilinearly and without keeping the aspect ratio.

    A JPEG at least twice as large as needed is decoded at 1/2, 1/4 or 1/8 of its size, which is several times faster
    and changes pixels less than the interpolation does. Transparency is ignored; 16 bits are scaled to 8.

    Args:
        content: of a JPEG, PNG or DICOM file.
        size: side of the square in pixels.

    Returns:
        Grey values 0 to 255, uint8, shape (size, size).

    Raises:
        ImageRefusedError: as in `describe_image`.
    """
    return stretch(_grey(_open(content)[0], at_least=size), size)


def digest_pixels(content: bytes) -> str:
    """Return the SHA-256 of an image's size and grey values at full size: the same for one picture in any format.

    Args:
        content: of a file that `describe_image` accepts.
    """
    image = _open(content)[0]
    image.load()  # in its own colours: a JPEG that is decoded to grey rounds otherwise than its copy as PNG
    grey = _grey(image, at_least=0)
    return sha256_bytes(b"%d %d " % grey.shape + grey.tobytes())


def stretch(grey: Pixels, size: int) -> Pixels:
    """Resize grey values, uint8 (height, width), to a square, uint8 (size, size)."""
    return np.asarray(Image.fromarray(grey).resize((size, size), Image.Resampling.BILINEAR))


def _open(content: bytes) -> tuple[Image.Image, str]:
    """Return an image, which Pillow may not have decoded yet, and its mode."""
    if not content:
        raise ImageRefusedError("empty file")
    if content[128:132] == b"DICM":
        from pneumonia.images.dicom import read_dicom  # pydicom is slow to import, and only DICOM needs it

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
    """Return grey values, uint8 (height, width), neither side reduced below `at_least`."""
    try:
        image.draft("L", (at_least, at_least))
        image.load()
        image.info.pop("transparency", None)  # Pillow warns if it cannot keep it
        if image.mode.startswith("I;16"):
            return (np.asarray(image, dtype=np.uint16) // 257).astype(np.uint8)
        return np.asarray(image.convert("L"))
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageRefusedError(f"damaged or truncated: {error}") from None
