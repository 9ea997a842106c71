"""Why a file is refused."""

from typing import NoReturn

MAX_PIXELS = 64_000_000  # three times the largest digital chest radiograph; more is a mistake or an attack
MAX_BYTES = 1 << 30  # of a file: no image of so many pixels needs more
# A radiograph shrinks to a twentieth at most. Decoded to a few million bytes, even a blank image does no harm.
MAX_RATIO, HARMLESS = 200, 2**24
max_work = float("inf")  # pixels of this process; `workers` sets it, so that a large image is left to another one


class ImageRefusedError(ValueError):
    """A file that is not a usable image; the message is the reason."""


class LimitExceededError(ImageRefusedError):
    """A file that takes more time, memory or pixels than it may in this process."""


def refuse(reason: str) -> NoReturn:
    """Raise an ImageRefusedError that hides what led to it: that may quote values of the file."""
    raise ImageRefusedError(reason) from None


def check_size(width: int, height: int, samples: int, stored: int) -> None:
    """Refuse an image of too many pixels, or one that decodes to more than its bytes can mean.

    Args:
        width: in pixels.
        height: in pixels.
        samples: bytes of a decoded pixel.
        stored: bytes of the encoded image.
    """
    if width * height > MAX_PIXELS:
        refuse(f"more than {MAX_PIXELS:,} pixels")
    if width * height * samples > max(HARMLESS, MAX_RATIO * stored):
        refuse(f"decodes to more than {MAX_RATIO} times its size")
    check_work(width * height)


def check_work(pixels: float) -> None:
    """Leave a file to another process if decoding it takes as long as that of so many pixels of a plain image.

    Raises:
        LimitExceededError: it is more than this process may.
    """
    if pixels > max_work:
        raise LimitExceededError(f"takes as much work as {pixels:,.0f} pixels")
