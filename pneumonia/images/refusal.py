"""Why a file is refused."""

MAX_PIXELS = 64_000_000  # three times the largest digital chest radiograph; more is a mistake or an attack
MAX_BYTES = 1 << 30  # of a file: no image of so many pixels needs more


class ImageRefusedError(ValueError):
    """A file that is not a usable image; the message is the reason."""
