"""Map the stored values of a DICOM image to the grey values that a viewer shows."""

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi, apply_windowing

from pneumonia.core.dataset import Pixels
from pneumonia.images.depth import look_up
from pneumonia.images.refusal import refuse


def show(image: Dataset, stored: npt.NDArray[np.integer]) -> Pixels:
    """Map stored values to grey through a table: there are at most 65,536 different ones."""
    least = int(stored.min())
    used = np.zeros(int(stored.max()) - least + 1, bool)
    for row in stored:
        used[np.subtract(row, least, dtype=np.int32)] = True
    values = least + np.arange(len(used))
    padding = image.get("PixelPaddingValue")
    if padding is not None:
        ends = padding, image.get("PixelPaddingRangeLimit", padding)
        used[(values >= min(ends)) & (values <= max(ends))] = False
    with np.errstate(all="ignore"):  # values that are not finite are refused below
        values = apply_modality_lut(values, image).astype(float)
        shown, black, white = _apply_voi(image, values, used)
        grey = np.clip((shown - black) / (white - black or 1), 0, 1)
    if not np.isfinite([values, grey]).all():
        refuse("rescale or window that is not finite")
    if image.PhotometricInterpretation == "MONOCHROME1" or image.get("PresentationLUTShape") == "INVERSE":
        grey = 1 - grey  # once: where both are set, as in digital X-ray, they mean the same
    return look_up(np.rint(255 * grey).astype(np.uint8), stored, least)


def _apply_voi(
    image: Dataset, values: npt.NDArray[np.floating], used: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.number], float, float]:
    """Return the values to show, and those that are black and white."""
    if luts := image.get("VOILUTSequence"):
        entries, first, bits = luts[0].LUTDescriptor
        if not 8 <= bits <= 16:
            refuse("a VOI LUT of fewer than 8 or more than 16 bits")
        luts[0].LUTDescriptor = [entries, first, 16]  # pydicom counts entries in `bits` bits, which wraps at 8
        inside = np.clip(np.rint(values), first, first + (entries or 2**16) - 1)
        return apply_voi(inside.astype(int), image), 0, 2**bits - 1
    if None not in (image.get("WindowCenter"), image.get("WindowWidth")):
        black, white = apply_windowing(np.array([-np.inf, np.inf]), image)
        return apply_windowing(values, image), black, white
    if not used.any():
        refuse("nothing but padding")
    return values, float(values[used].min()), float(values[used].max())
