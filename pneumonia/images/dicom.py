"""Decode a DICOM file to the grey values that a viewer shows."""

import logging
import re
from io import BytesIO
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import Dataset, uid
from pydicom.encaps import get_frame
from pydicom.filereader import read_dataset
from pydicom.pixels import get_decoder
from pydicom.tag import BaseTag, Tag

from pneumonia.core.dataset import Pixels
from pneumonia.core.paths import find_format
from pneumonia.images.display import show
from pneumonia.images.jpeg import check_jpeg, check_plain_jpeg
from pneumonia.images.refusal import MAX_PIXELS, ImageRefusedError, check_size, check_work, refuse

logging.getLogger("pydicom").propagate = False  # it logs its warnings too, with values of the file

STATED = ("Modality", "ViewPosition", "BodyPartExamined")
_LUTS = ("ModalityLUTSequence", "VOILUTSequence")
# Only these are read: no patient's name can get into a message, and a malformed one refuses no image.
_READ: list[BaseTag | int] = [
    *map(Tag, ("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PixelData")),
    *map(Tag, ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue")),
    *map(Tag, ("PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept", "PlanarConfiguration")),
    *map(Tag, ("VOILUTFunction", "WindowCenter", "WindowWidth", "PresentationLUTShape", *_LUTS, *STATED)),
]
# Of these a few numbers or words are expected. Values are parsed into objects a hundred times as large as their bytes.
_SHORT = {*_READ, Tag("TransferSyntaxUID"), Tag("SpecificCharacterSet")} - {*map(Tag, (*_LUTS, "PixelData"))}
_LONGEST, _LONGEST_LUTS, _MAX_ITEMS = 1024, 2**20, 10_000  # bytes of a short element, of all tables; items of a file
_LUT_BYTES = {"LUTDescriptor": 64, "LUTData": 2**17}
_ITEM = b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00"  # starts an item of a sequence, and a fragment of pixels
# One decoder for each syntax whatever else is installed, so a file has the same pixels everywhere.
# Deflated files are missing: pydicom inflates them without a limit.
_DECODERS = {
    **dict.fromkeys((uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian), ""),
    **dict.fromkeys((uid.JPEGBaseline8Bit, uid.JPEG2000Lossless, uid.JPEG2000), "pillow"),
    **dict.fromkeys((uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1), "pylibjpeg"),
    **dict.fromkeys((uid.JPEGLSLossless, uid.JPEGLSNearLossless), "pylibjpeg"),
    uid.RLELossless: "pydicom",
}
_PHOTOMETRIC = {1: ("MONOCHROME1", "MONOCHROME2"), 3: ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")}
_BITS = {1: (8, 16), 3: (8,)}  # allocated, by samples
_EXPORT = "export one as a file of its own, for example with dcmj2pnm --frame 1 --write-png"


class DicomImage(NamedTuple):
    """Grey values, uint8 (height, width); the photometric interpretation; what is stated, in the order of STATED."""

    grey: Pixels
    photometric: str
    stated: tuple[str, ...]


def read_dicom(content: bytes) -> DicomImage:
    """Decode a DICOM image and apply the display pipeline of its header.

    In this order: modality LUT or rescale, VOI LUT or window (the first of several), inversion. With neither VOI LUT
    nor window, black and white are the lowest and the highest value that is not padding. Source: DICOM PS3.4, N.2,
    https://dicom.nema.org/medical/dicom/current/output/chtml/part04/sect_N.2.html
    Colour, as of a secondary capture, is shown already and becomes its luma.

    Raises:
        ImageRefusedError: the file is damaged, truncated, too large, of several frames or without pixels, or its
            colours or compression are unknown or need a decoder that is not installed.
    """
    try:
        image, syntax = _parse(content, _READ)
        _check(image)
        stored = _decode(image, syntax)
        grey = np.asarray(Image.fromarray(stored).convert("L")) if stored.ndim == 3 else show(image, stored)
        return DicomImage(grey, image.PhotometricInterpretation, tuple(_read_code(image, name) for name in STATED))
    except ImageRefusedError:
        raise
    except MemoryError:
        refuse("needs more memory than there is")
    except Exception:  # pydicom and the decoders may raise anything, with values of the file in the message
        refuse("damaged, truncated or not standard DICOM")


def _read_code(image: Dataset, keyword: str) -> str:
    """Return a coded word, or nothing if the element holds anything else, such as a name that does not belong there."""
    code = str(image.get(keyword) or "").strip()
    return code if re.fullmatch(r"[A-Z0-9_ ]{0,16}", code) else ""


def read_patient_id(content: bytes) -> bytes:
    """Return the PatientID of a DICOM file as it is stored, without padding; empty where it has none.

    It identifies a person: never store, show or log it.
    """
    if find_format(content) != "DICOM":
        return b""
    try:
        value = _parse(content, [Tag("PatientID")])[0].get_item("PatientID").value  # pyright: ignore
        return value.strip(b" \0") if isinstance(value, bytes) else b""
    except Exception:  # as above; a message could hold the id
        return b""


def _parse(content: bytes, attributes: list[BaseTag | int]) -> tuple[Dataset, uid.UID]:
    if max(content.count(item) for item in _ITEM) > _MAX_ITEMS:
        refuse(f"more than {_MAX_ITEMS:,} items of sequences or pixel data")
    # Not `dcmread`: it inflates a deflated file before the syntax can be checked.
    stream = BytesIO(content)
    stream.seek(132)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, *rest: _stop(tag, *rest) or tag >> 16 != 2)
    syntax = uid.UID(meta.get("TransferSyntaxUID") or "")
    if syntax not in _DECODERS:
        refuse(f"transfer syntax {syntax.name if syntax.is_valid else 'unknown'} is not supported")
    order = syntax.is_implicit_VR, syntax.is_little_endian
    return read_dataset(stream, *order, stop_when=_stop, specific_tags=attributes), syntax


def _stop(tag: BaseTag, _: str | None, length: int) -> bool:
    """Stop at no element, but refuse one that is too long to parse."""
    longest = _LONGEST if tag in _SHORT else _LONGEST_LUTS if tag in map(Tag, _LUTS) else length
    if length > longest and length != 0xFFFFFFFF:  # undefined, of a sequence, whose items are counted
        refuse(f"an element of {length:,} bytes where {longest:,} are plenty")
    return False


def _check(image: Dataset) -> None:
    """Refuse anything but one image of a plausible size, before decoding it."""
    if "PixelData" not in image:
        refuse("no pixel data, or truncated within it")
    frames, samples = int(image.get("NumberOfFrames") or 1), int(image.get("SamplesPerPixel", 1))
    size, bits = int(image.Rows) * int(image.Columns) * samples * frames, image.BitsAllocated
    if size > MAX_PIXELS:
        refuse(f"more than {MAX_PIXELS:,} pixels")
    if frames != 1:
        refuse(f"{frames} frames instead of one: {_EXPORT}")
    if size < 1:
        refuse("no rows or no columns")
    if image.PhotometricInterpretation not in _PHOTOMETRIC.get(samples, ()):
        refuse("in colours other than RGB or YBR_FULL")
    if bits not in _BITS[samples] or image.get("HighBit", image.BitsStored - 1) != image.BitsStored - 1:
        refuse("pixels not in the low bits of 8 or 16, or colours not of 8")
    if len(image.PixelData) > size * bits // 4 + 2**20:  # twice the pixels, and a margin for small images
        refuse("more data than pixels")
    check_size(image.Columns, image.Rows, samples * bits // 8, len(image.PixelData))
    for lut in (image[name][0] for name in _LUTS if image.get(name)):
        for keyword, longest in _LUT_BYTES.items():
            if len(lut.get_item(keyword).value or b"") > longest:
                refuse(f"a table whose {keyword} has more than {longest:,} bytes")


def _decode(image: Dataset, syntax: uid.UID) -> npt.NDArray[np.integer]:
    decoder, name = get_decoder(syntax), _DECODERS[syntax]
    if name not in ("", *decoder.available_plugins):
        refuse(f"transfer syntax {syntax.name} needs a decoder that is not installed: make setup-dicom")
    if name == "pylibjpeg":  # allocates what the JPEG asks for, whatever the DICOM header says
        frame = get_frame(image.PixelData, 0, number_of_frames=1)
        check_plain_jpeg(frame, image.Columns, image.Rows, image.get("SamplesPerPixel", 1))
    if syntax in (uid.JPEG2000, uid.JPEG2000Lossless):
        check_work(8 * image.Rows * image.Columns)  # its wavelets take so much longer
    if syntax == uid.JPEGBaseline8Bit:
        check_jpeg(get_frame(image.PixelData, 0, number_of_frames=1))
    return decoder.as_array(image, index=0, decoding_plugin=name)[0]
