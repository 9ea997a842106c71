"""Uploads in bad faith: kilobytes that ask for gigabytes or minutes, and the most that the service accepts."""

from collections.abc import Callable
from io import BytesIO
from struct import pack

import numpy as np
from numpy.random import default_rng
from PIL import Image
from pydicom import Dataset, dcmwrite, uid
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate

from pneumonia.core.dataset import Pixels

SIDE = 8000  # pixels; MAX_PIXELS is its square
_WIDE = {"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "WindowCenter": "32768", "WindowWidth": "65536"}


def _dicom(frame: bytes, syntax: str, rows: int = SIDE, **more: object) -> bytes:
    image = Dataset()
    image.SOPClassUID, image.SOPInstanceUID = uid.DigitalXRayImageStorageForPresentation, "1.2.3.4"
    image.Rows = image.Columns = rows
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PixelRepresentation = 1, "MONOCHROME2", 0
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit = 7
    for keyword, value in more.items():
        setattr(image, keyword, value)
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = uid.UID(syntax)
    compressed = image.file_meta.TransferSyntaxUID.is_encapsulated
    image.PixelData = encapsulate([frame]) if compressed else frame
    image["PixelData"].is_undefined_length = compressed
    buffer = BytesIO()
    dcmwrite(buffer, image, enforce_file_format=True)
    return buffer.getvalue()


def _segment(marker: int, content: bytes) -> bytes:
    return pack(">BBH", 255, marker, len(content) + 2) + content


def save(image: Image.Image, kind: str, **options: object) -> bytes:
    """Return an image as a file."""
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _noise(*shape: int) -> Image.Image:
    return Image.fromarray(default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def _empty_scans() -> bytes:
    jpeg = save(_noise(64, 64), "jpeg")
    start, end = jpeg.index(b"\xff\xda"), jpeg.index(b"\xff\xc0")
    frame = jpeg[:end] + jpeg[end:start].replace(b"\xff\xc0", b"\xff\xc1", 1).replace(
        pack(">HH", 64, 64), pack(">HH", SIDE, SIDE)
    )
    return _dicom(frame + jpeg[start:-2] + jpeg[start : start + 10] * 9134 + b"\xff\xd9", uid.JPEGExtended12Bit)


def _jpeg_ls(*before: bytes) -> bytes:
    size = pack(">BHHBBBB", 8, SIDE, SIDE, 1, 1, 0x11, 0)
    frame = b"".join(before) + _segment(0xF7, size) + _segment(0xDA, b"\1\1\0\0\0\0")
    return _dicom(b"\xff\xd8" + frame + bytes(4000) + b"\xff\xd9", uid.JPEGLSLossless)


def _repeat_scans(image: Image.Image, scans: int) -> bytes:
    jpeg = save(image, "jpeg", progressive=True)
    last = jpeg.rindex(b"\xff\xda")
    return jpeg[:last] + jpeg[last:-2] * scans + jpeg[-2:]


def _windows() -> bytes:
    plain = _dicom(bytes(64 * 64), uid.ExplicitVRLittleEndian, 64, WindowCenter="1", WindowWidth="2")
    # Explicit lengths have 16 bits, so a file of this kind is implicit or states the VR UT; one value of many bytes.
    element = pack("<HH2sHI", 0x28, 0x1050, b"UT", 0, 4_000_000) + b"1\\" * 2_000_000
    place = plain.index(pack("<HH", 0x28, 0x1050))
    return plain[:place] + element + plain[place + 8 + 2 :]


def _luts() -> bytes:
    plain = _dicom(bytes(64 * 64), uid.ExplicitVRLittleEndian, 64, WindowCenter="1", WindowWidth="2")
    items = pack("<HHI", 0xFFFE, 0xE000, 0) * 500_000
    element = pack("<HH2sHI", 0x28, 0x3010, b"SQ", 0, len(items)) + items
    place = plain.index(pack("<HH", 0x7FE0, 0x10))
    return plain[:place] + element + plain[place:]


def _rle() -> bytes:
    runs = b"\x81\0" * (SIDE * SIDE // 128)
    header = pack("<16I", 2, 64, 64 + len(runs), *[0] * 13)
    return _dicom(header + runs + runs, uid.RLELossless, **_WIDE)


def _plain() -> bytes:
    return _dicom(default_rng(0).bytes(2 * 3900 * 3900), uid.ExplicitVRLittleEndian, 3900, **_WIDE)


FORMS: dict[str, Callable[[], bytes]] = {
    "JPEG extended, 9,134 empty scans": _empty_scans,
    "JPEG-LS, 8000 x 8000 in 4 kB": _jpeg_ls,
    "JPEG-LS with DHP": lambda: _jpeg_ls(_segment(0xDE, pack(">BHHBBBB", 8, 60000, 60000, 1, 1, 0x11, 0))),
    "progressive JPEG, 890 scans": lambda: _repeat_scans(_noise(64, 64), 890),
    "progressive JPEG, 4 MB": lambda: _repeat_scans(_noise(600, 600), 90),
    "2,000,000 window values": _windows,
    "NumberOfFrames 2,000,000": lambda: _dicom(b"\xff\xd8\xff\xd9", uid.JPEGBaseline8Bit, NumberOfFrames=2_000_000),
    "500,000 empty LUT items": _luts,
    "RLE, 128 MB in 2 MB": _rle,
    "PNG, 256 MB in 0.25 MB": lambda: save(Image.new("RGBA", (SIDE, SIDE)), "png"),
    "PNG, 64 MB in 0.3 MB": lambda: save(Image.fromarray(_sparse(SIDE, 5)), "png"),
    "PNG, 4 MB in 0.02 MB": lambda: save(Image.fromarray(_sparse(2000, 2)), "png"),
    "JPEG of 64,000,000 pixels": lambda: save(_noise(SIDE, SIDE), "jpeg", quality=30),
    "DICOM of 16 bits": _plain,
}


def _sparse(side: int, noisy: int) -> Pixels:
    """Return an image of which only the first rows do not compress."""
    image = np.zeros((side, side), np.uint8)
    image[: side // 200 + noisy] = default_rng(0).integers(0, 256, (side // 200 + noisy, side))
    return image
