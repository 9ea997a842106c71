"""Decode a DICOM file to the grey values that a viewer shows."""

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

logging.getLogger("pydicom").propagate = False  # it logs its warnings too, with values of the file

# Only these are read: no patient's name can get into a message, and a malformed one refuses no image.
_READ: list[BaseTag | int] = [
    *map(Tag, ("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PixelData")),
    *map(Tag, ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue")),
    *map(Tag, ("PixelPaddingRangeLimit", "ModalityLUTSequence", "RescaleSlope", "RescaleIntercept", "VOILUTSequence")),
    *map(Tag, ("VOILUTFunction", "WindowCenter", "WindowWidth", "PresentationLUTShape")),
]
# One decoder for each syntax whatever else is installed, so a file has the same pixels everywhere.
# Deflated files are missing: pydicom inflates them without a limit.
_DECODERS = {
    **dict.fromkeys((uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian), ""),
    **dict.fromkeys((uid.JPEGBaseline8Bit, uid.JPEG2000Lossless, uid.JPEG2000), "pillow"),
    **dict.fromkeys((uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1), "pylibjpeg"),
    **dict.fromkeys((uid.JPEGLSLossless, uid.JPEGLSNearLossless), "pylibjpeg"),
    uid.RLELossless: "pydicom",
}
# The marker of a JPEG's frame header; three bytes later, height and width.
_FRAME = re.compile(rb"\xff(?=[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf\xf7].{3}(.{4}))", re.DOTALL)


def read_dicom(content: bytes) -> tuple[Pixels, str]:
    """Decode a DICOM image and apply the display pipeline of its header.

    In this order: modality LUT or rescale, VOI LUT or window (the first of several), inversion. With neither VOI LUT
    nor window, black and white are the lowest and the highest value that is not padding. Source: DICOM PS3.4, N.2,
    https://dicom.nema.org/medical/dicom/current/output/chtml/part04/sect_N.2.html

    Returns:
        Grey values 0 to 255, air dark, uint8 (height, width), and the photometric interpretation of the file.

    Raises:
        ImageRefusedError: the file is damaged, truncated, too large, in colour, of several frames or without pixels,
            or its compression is unknown or needs a decoder that is not installed.
    """
    try:
        image, syntax = _parse(content, _READ)
        _check(image)
        return _show(image, _decode(image, syntax)), image.PhotometricInterpretation
    except ImageRefusedError:
        raise
    except Exception:  # pydicom and the decoders may raise anything, with values of the file in the message
        _refuse("damaged, truncated or not standard DICOM")


def read_patient_id(content: bytes) -> bytes:
    """Return the PatientID of a DICOM file as it is stored, without padding; empty where it has none.

    It identifies a person: never store, show or log it.
    """
    if content[128:132] != b"DICM":
        return b""
    try:
        value = _parse(content, [Tag("PatientID")])[0].get_item("PatientID").value  # pyright: ignore
        return value.strip(b" \0") if isinstance(value, bytes) else b""
    except Exception:  # as above; a message could hold the id
        return b""


def _refuse(reason: str) -> NoReturn:
    raise ImageRefusedError(reason) from None


def _parse(content: bytes, attributes: list[BaseTag | int]) -> tuple[Dataset, uid.UID]:
    # Not `dcmread`: it inflates a deflated file before the syntax can be checked.
    stream = BytesIO(content)
    stream.seek(132)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    syntax = uid.UID(meta.get("TransferSyntaxUID") or "")
    if syntax not in _DECODERS:
        _refuse(f"transfer syntax {syntax.name if syntax.is_valid else 'unknown'} is not supported")
    return read_dataset(stream, syntax.is_implicit_VR, syntax.is_little_endian, specific_tags=attributes), syntax


def _check(image: Dataset) -> None:
    """Refuse anything but one grey image of a plausible size, before decoding it."""
    if "PixelData" not in image:
        _refuse("no pixel data, or truncated within it")
    frames, samples = int(image.get("NumberOfFrames") or 1), int(image.get("SamplesPerPixel", 1))
    size, bits = int(image.Rows) * int(image.Columns) * samples * frames, image.BitsAllocated
    if size > MAX_PIXELS:
        _refuse(f"more than {MAX_PIXELS:,} pixels")
    if frames != 1:
        _refuse(f"{frames} frames instead of one")
    if size < 1:
        _refuse("no rows or no columns")
    if samples != 1 or image.PhotometricInterpretation not in ("MONOCHROME1", "MONOCHROME2"):
        _refuse("in colour, not MONOCHROME1 or MONOCHROME2")
    if bits not in (8, 16) or image.get("HighBit", image.BitsStored - 1) != image.BitsStored - 1:
        _refuse("pixels not in the low bits of 8 or 16")
    if len(image.PixelData) > size * bits // 4 + 2**20:  # twice the pixels, and a margin for small images
        _refuse("more data than pixels")


def _decode(image: Dataset, syntax: uid.UID) -> npt.NDArray[np.integer]:
    decoder, name = get_decoder(syntax), _DECODERS[syntax]
    if name not in ("", *decoder.available_plugins):
        _refuse(f"transfer syntax {syntax.name} needs a decoder that is not installed: make setup-dicom")
    if name == "pylibjpeg":  # allocates what the JPEG asks for, whatever the DICOM header says
        sizes = set(_FRAME.findall(get_frame(image.PixelData, 0, number_of_frames=1)))
        if sizes != {pack(">HH", image.Rows, image.Columns)}:
            _refuse("a JPEG whose size is not that of the DICOM header")
    return decoder.as_array(image, index=0, decoding_plugin=name)[0]


def _show(image: Dataset, stored: npt.NDArray[np.integer]) -> Pixels:
    """Map stored values to grey through a table: there are at most 65,536 different ones."""
    least = int(stored.min())
    place = np.subtract(stored, least, dtype=np.int32)
    used = np.bincount(place.ravel()) > 0
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
        _refuse("rescale or window that is not finite")
    if image.PhotometricInterpretation == "MONOCHROME1" or image.get("PresentationLUTShape") == "INVERSE":
        grey = 1 - grey  # once: where both are set, as in digital X-ray, they mean the same
    return np.rint(255 * grey).astype(np.uint8)[place]


def _apply_voi(
    image: Dataset, values: npt.NDArray[np.floating], used: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.number], float, float]:
    """Return the values to show, and those that are black and white."""
    if luts := image.get("VOILUTSequence"):
        entries, first, bits = luts[0].LUTDescriptor
        if not 8 <= bits <= 16:
            _refuse("a VOI LUT of fewer than 8 or more than 16 bits")
        luts[0].LUTDescriptor = [entries, first, 16]  # pydicom counts entries in `bits` bits, which wraps at 8
        inside = np.clip(np.rint(values), first, first + (entries or 2**16) - 1)
        return apply_voi(inside.astype(int), image), 0, 2**bits - 1
    if None not in (image.get("WindowCenter"), image.get("WindowWidth")):
        black, white = apply_windowing(np.array([-np.inf, np.inf]), image)
        return apply_windowing(values, image), black, white
    if not used.any():
        _refuse("nothing but padding")
    return values, float(values[used].min()), float(values[used].max())
