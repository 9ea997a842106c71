"""Scale values of 16 bits, which may hold fewer, to 8."""

import numpy as np
import numpy.typing as npt

from pneumonia.core.dataset import Pixels

DEPTHS = 8, 10, 12, 14, 16  # bits that detectors have
Values = npt.NDArray[np.integer]


def scale_depth(values: Values, mode: str, stated: int | None) -> tuple[Pixels, str]:
    """Scale the bits that are in use to 8.

    These are the stated ones, or else the fewest of DEPTHS that hold the largest value. Where all
    values are large and within 14 bits, as of signed ones that were moved up by 32,768, the smallest one becomes black.

    Args:
        values: of 16 bits, (height, width).
        mode: Pillow's.
        stated: how many bits the file says are significant.

    Returns:
        Grey values 0 to 255, uint8 (height, width), and the mode with the depth where it is not 16 bits.
    """
    least = int(values.min())
    if not stated and least >= 2**14 > int(values.max()) - least:
        values = np.subtract(values, least)
    used = next(bits for bits in DEPTHS if int(values.max()) < 2**bits)
    bits = used
    if stated and used <= stated <= 16:
        bits, mode = stated, f"{mode}, stated {stated}" if stated < 16 else mode
    elif stated and stated < used:  # scaled to 16 bits, as the standard of PNG asks for
        bits = 16
    elif used < 16:
        mode = f"{mode} of {used} bits"
    if bits == 16:
        return (values // 257).astype(np.uint8), mode
    return look_up(np.rint(np.linspace(0, 255, 2**bits)).astype(np.uint8), values), mode


def look_up(table: Pixels, places: Values, least: int = 0) -> Pixels:
    """Return the table's value for each place, counted from `least`; by rows, as NumPy needs 8 bytes a place."""
    found = np.empty(places.shape, table.dtype)
    for into, row in zip(found, places, strict=True):
        into[:] = table[np.subtract(row, least, dtype=np.int32)]
    return found
