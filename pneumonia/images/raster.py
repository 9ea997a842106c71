"""Decode what Pillow reads to upright grey values: JPEG, PNG, TIFF, WebP and BMP."""

import warnings
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from pneumonia.core.dataset import Pixels
from pneumonia.core.paths import find_format
from pneumonia.images.depth import scale_depth
from pneumonia.images.jpeg import check_jpeg
from pneumonia.images.png import check_png
from pneumonia.images.refusal import MAX_PIXELS, ImageRefusedError, check_size, refuse
from pneumonia.images.tiff import ORIENTATION, check_tiff, read_orientation
from pneumonia.images.webp import check_webp

warnings.simplefilter("error", Image.DecompressionBombWarning)  # a reason to refuse a file, not to print
# Filters are global and files are read in threads, so they are set once. What Pillow warns of is read or refused.
warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
_READ = ("JPEG", "PNG", "TIFF", "WEBP", "BMP")
_CONVERT = {
    "HEIC": "HEIC: convert to JPEG or PNG first, for example with heif-convert or sips",
    "AVIF": "AVIF: convert to JPEG or PNG first, for example with avifdec",
}
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_BYTES = {"L": 1, "P": 1, "1": 1, "I;16": 2, "I;16B": 2}  # of a decoded pixel; 4 in any other mode
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # from an EXIF orientation to the way up that it means


class Raster(NamedTuple):
    """Upright grey values, uint8 (height, width) and possibly reduced; the full width and height; the mode."""

    grey: Pixels
    width: int
    height: int
    mode: str


def read_raster(content: bytes, at_least: int) -> Raster:
    """Decode a file to grey values, neither side reduced below `at_least`.

    Raises:
        ImageRefusedError: the file is damaged, truncated, too large, of another format or of several images.
    """
    kind = find_format(content)
    if kind not in _READ:
        refuse(_CONVERT.get(kind, f"not a {', '.join(_READ)} or DICOM file"))
    try:
        stated, exif = _check(content, kind)
        image = Image.open(BytesIO(content), formats=[kind])
        check_size(image.width, image.height, _BYTES.get(image.mode, 4), len(content))
        return _decode(image, at_least, stated, exif)
    except ImageRefusedError:
        raise
    except MemoryError:
        refuse("needs more memory than there is")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        refuse(f"more than {MAX_PIXELS:,} pixels")
    except UnidentifiedImageError:  # its message holds an address
        refuse("damaged or truncated: its header cannot be read")
    except Exception as error:  # Pillow's readers may raise anything
        refuse(f"damaged or truncated: {error}")


def _check(content: bytes, kind: str) -> tuple[int | None, bytes]:
    """Check what can be checked without decoding; return the stated depth in bits, and a JPEG's EXIF block."""
    if kind == "JPEG":
        exif = check_jpeg(content)
        read_orientation(exif)  # refuses an endless one, which Pillow reads when it opens the file
        return None, exif
    if kind == "PNG":
        return check_png(content), b""
    if kind == "TIFF":
        check_tiff(content)
    if kind == "WEBP":
        check_webp(content)
    return None, b""


def _decode(image: Image.Image, at_least: int, stated: int | None, exif: bytes) -> Raster:
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # a camera's previews follow the image itself
        refuse("several images instead of one")
    if image.mode in ("I", "F"):
        refuse("signed, 32-bit or floating-point values, whose black and white are unknown: save it with 8 or 16 bits")
    tags: dict[int, int] = getattr(image, "tag_v2", {})  # of a TIFF, which Pillow turns upright itself
    inverted, turned = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO, tags.get(ORIENTATION)
    (width, height), mode = image.size, image.mode
    deep = ";16" in str(getattr(image, "tile", ""))  # if there are several channels, Pillow keeps the upper eight bits
    if at_least:
        image.draft("L", (at_least, at_least))
    image.load()
    if mode.startswith("I;16"):
        values = np.asarray(image, dtype=np.uint16)
        grey, mode = scale_depth(values, mode, stated)
        grey = 255 - grey if inverted else grey  # Pillow does so only for fewer bits
    else:
        image.info.pop("transparency", None)  # Pillow warns if it cannot keep it
        grey = np.asarray(image.convert("L"))
        if deep and grey.max() < 2**6:
            refuse("colour of 16 bits that holds 14 or fewer: save it as grey, or with 8 bits")
    way = 1 if turned else read_orientation(exif or _find_exif(image))
    if way >= 5:
        width, height = height, width
    return Raster(np.asarray(Image.fromarray(grey).transpose(_UPRIGHT[way])) if way > 1 else grey, width, height, mode)


def _find_exif(image: Image.Image) -> bytes:
    """Return the EXIF block of a PNG or WebP; ImageMagick writes it as text in hexadecimal digits."""
    text = str(image.info.get("Raw profile type exif", ""))
    return image.info.get("exif") or bytes.fromhex("".join(text.split("\n")[3:]))
