"""Turn the bytes of a DICOM file into the grey values that a viewer would show."""

import logging
import re
from io import BytesIO
from struct import pack
from typing import NoReturn

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, uid
from pydicom.encaps import get_frame
from pydicom.filereader import read_dataset
from pydicom.pixels import apply_modality_lut, apply_voi, apply_windowing, get_decoder
from pydicom.tag import BaseTag, Tag

from pneumonia.core.dataset import Pixels
from pneumonia.images.refusal import MAX_PIXELS, ImageRefusedError

logging.getLogger("pydicom").propagate = False  # what it warns of it logs too, with values of the file

# All that is read: no name can get into a message, and no error in a name refuses an image.
_READ: list[BaseTag | int] = [
    *map(Tag, ("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PixelData")),
    *map(Tag, ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue")),
    *map(Tag, ("PixelPaddingRangeLimit", "ModalityLUTSequence", "RescaleSlope", "RescaleIntercept", "VOILUTSequence")),
    *map(Tag, ("VOILUTFunction", "WindowCenter", "WindowWidth", "PresentationLUTShape")),
]
# One decoder each, whatever else is installed: the same file gives the same pixels everywhere.
# Deflated files are left out: pydicom inflates them without a limit.
_DECODERS = {
    **dict.fromkeys((uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian), ""),
    **dict.fromkeys((uid.JPEGBaseline8Bit, uid.JPEG2000Lossless, uid.JPEG2000), "pillow"),
    **dict.fromkeys((uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1), "pylibjpeg"),
    **dict.fromkeys((uid.JPEGLSLossless, uid.JPEGLSNearLossless), "pylibjpeg"),
    uid.RLELossless: "pydicom",
}
# The marker that opens a JPEG's frame, and after three bytes height and width.
_FRAME = re.compile(rb"\xff(?=[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf\xf7].{3}(.{4}))", re.DOTALL)


def read_dicom(content: bytes) -> tuple[Pixels, str]:
    """Decode a DICOM image and show it as the file says.

    In this order: modality LUT or rescale, VOI LUT or window (the first of several), inversion. Without VOI LUT and
    window, black and white are the least and the greatest value that is not padding.
    https://dicom.nema.org/medical/dicom/current/output/chtml/part04/sect_N.2.html

    Returns:
        Grey values 0 to 255, air dark, uint8 (height, width), and the photometric interpretation of the file.

    Raises:
        ImageRefusedError: the file is damaged, truncated, too large, in colour, of several frames or of none, or it
            is compressed in a way that is not known or whose decoder is not installed.
    """
    try:
        image, syntax = _parse(content)
        _check(image)
        return _show(image, _decode(image, syntax)), image.PhotometricInterpretation
    except ImageRefusedError:
        raise
    except Exception:  # pydicom and the decoders raise anything, with values of the file in the message
        _refuse("damaged, truncated or against the DICOM standard")


def _refuse(reason: str) -> NoReturn:
    raise ImageRefusedError(reason) from None


def _parse(content: bytes) -> tuple[Dataset, uid.UID]:
    # `dcmread` would have inflated a deflated file before it says that it is one.
    stream = BytesIO(content)
    stream.seek(132)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    syntax = uid.UID(meta.get("TransferSyntaxUID") or "")
    if syntax not in _DECODERS:
        _refuse(f"transfer syntax {syntax.name if syntax.is_valid else 'unknown'} is not supported")
    return read_dataset(stream, syntax.is_implicit_VR, syntax.is_little_endian, specific_tags=_READ), syntax


def _check(image: Dataset) -> None:
    """Refuse what is no grey image of a plausible size, before anything is decoded."""
    if "PixelData" not in image:
        _refuse("no pixel data, or truncated before their end")
    frames, samples = int(image.get("NumberOfFrames") or 1), int(image.get("SamplesPerPixel", 1))
    size, bits = int(image.Rows) * int(image.Columns) * samples * frames, image.BitsAllocated
    if size > MAX_PIXELS:
        _refuse(f"more than {MAX_PIXELS:,} pixels")
    if frames != 1:
        _refuse(f"{frames} frames instead of one")
    if size < 1:
        _refuse("no rows or no columns")
    if samples != 1 or image.PhotometricInterpretation not in ("MONOCHROME1", "MONOCHROME2"):
        _refuse("in colour instead of MONOCHROME1 or MONOCHROME2")
    if bits not in (8, 16) or image.get("HighBit", image.BitsStored - 1) != image.BitsStored - 1:
        _refuse("bits of a pixel not in the lower part of 8 or 16")
    if len(image.PixelData) > size * bits // 4 + 2**20:  # twice as much as the pixels, and some room for small ones
        _refuse("more data than pixels")


def _decode(image: Dataset, syntax: uid.UID) -> npt.NDArray[np.integer]:
    decoder, name = get_decoder(syntax), _DECODERS[syntax]
    if name not in ("", *decoder.available_plugins):
        _refuse(f"transfer syntax {syntax.name} needs a decoder that is not installed: make setup-dicom")
    if name == "pylibjpeg":  # takes the memory that the JPEG asks for, whatever the DICOM header says
        sizes = set(_FRAME.findall(get_frame(image.PixelData, 0, number_of_frames=1)))
        if sizes != {pack(">HH", image.Rows, image.Columns)}:
            _refuse("a JPEG of another size than the DICOM header says")
    return decoder.as_array(image, index=0, decoding_plugin=name)[0]


def _show(image: Dataset, stored: npt.NDArray[np.integer]) -> Pixels:
    """Look the stored values up in a table, for there are at most 65,536 different ones."""
    least = int(stored.min())
    place = np.subtract(stored, least, dtype=np.int32)
    used = np.bincount(place.ravel()) > 0
    values = least + np.arange(len(used))
    padding = image.get("PixelPaddingValue")
    if padding is not None:
        ends = padding, image.get("PixelPaddingRangeLimit", padding)
        used[(values >= min(ends)) & (values <= max(ends))] = False
    with np.errstate(all="ignore"):  # what is not finite is refused below
        values = apply_modality_lut(values, image).astype(float)
        shown, black, white = _apply_voi(image, values, used)
        grey = np.clip((shown - black) / (white - black or 1), 0, 1)
    if not np.isfinite([values, grey]).all():
        _refuse("rescale or window that is not finite")
    if image.PhotometricInterpretation == "MONOCHROME1" or image.get("PresentationLUTShape") == "INVERSE":
        grey = 1 - grey  # once: where both stand, as in digital X-ray, they mean the same
    return np.rint(255 * grey).astype(np.uint8)[place]


def _apply_voi(
    image: Dataset, values: npt.NDArray[np.floating], used: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.number], float, float]:
    """Return values to show, and which of them are black and white."""
    if luts := image.get("VOILUTSequence"):
        entries, first, bits = luts[0].LUTDescriptor
        if not 8 <= bits <= 16:
            _refuse("a VOI LUT of other than 8 to 16 bits")
        luts[0].LUTDescriptor = [entries, first, 16]  # pydicom counts entries in `bits` bits, which wraps at 8
        inside = np.clip(np.rint(values), first, first + (entries or 2**16) - 1)
        return apply_voi(inside.astype(int), image), 0, 2**bits - 1
    if None not in (image.get("WindowCenter"), image.get("WindowWidth")):
        black, white = apply_windowing(np.array([-np.inf, np.inf]), image)
        return apply_windowing(values, image), black, white
    if not used.any():
        _refuse("nothing but padding")
    return values, values[used].min(), values[used].max()
