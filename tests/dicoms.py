"""Make DICOM files of every kind, and give one image in every way that DICOM can store it."""

from io import BytesIO
from pathlib import Path
from struct import pack
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.random import default_rng
from pictures import encode as encode_image
from PIL import Image
from pydicom import Dataset, dcmwrite, uid
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate

from pneumonia.sources.phantom import draw_chest, expose

Plane = npt.NDArray[np.integer]
NARROW = {"WindowCenter": 128, "WindowWidth": 256}  # 0 to 255, by the formula of LINEAR


def make(stored: Plane, **attributes: Any) -> Dataset:
    """Return the dataset of an image, with all allocated bits stored; attributes that are None are left out."""
    image = Dataset()
    image.PatientName, image.PatientID, image.PatientBirthDate = "Roe^Jane", "MRN-4711", "20190131"
    image.SOPClassUID, image.SOPInstanceUID = uid.DigitalXRayImageStorageForPresentation, "1.2.3.4"
    image.Rows, image.Columns = stored.shape[:2]
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated = 8 * stored.dtype.itemsize
    image.BitsStored = attributes.get("BitsStored", image.BitsAllocated)
    image.HighBit, image.PixelRepresentation = image.BitsStored - 1, int(stored.dtype.kind == "i")
    image.PixelData = stored.tobytes() + bytes(stored.nbytes % 2)
    for keyword, value in attributes.items():
        if value is None:
            delattr(image, keyword)
        else:
            setattr(image, keyword, value)
    return image


def write(image: Dataset, syntax: str = uid.ExplicitVRLittleEndian) -> bytes:
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = uid.UID(syntax)
    if image.file_meta.TransferSyntaxUID.is_encapsulated:
        image["PixelData"].VR = "OB"
        image["PixelData"].is_undefined_length = True
    buffer = BytesIO()
    dcmwrite(buffer, image, enforce_file_format=True)
    return buffer.getvalue()


def encode(stored: Plane, **attributes: Any) -> bytes:
    return write(make(stored, **attributes))


def wrap(frame: bytes, syntax: str, stored: Plane, **attributes: Any) -> bytes:
    """Return a DICOM file of a frame that is already compressed."""
    return write(make(stored, PixelData=encapsulate([frame]), **attributes), syntax)


def encode_pillow(stored: Plane, kind: str, **options: Any) -> bytes:
    return encode_image(Image.fromarray(stored), kind, **options)


def encode_rle(stored: Plane, **attributes: Any) -> bytes:
    image = make(stored, **attributes)
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    image.compress(uid.RLELossless, encoding_plugin="pydicom")
    return write(image, uid.RLELossless)


def encode_lossless_jpeg(stored: Plane, bits: int) -> bytes:
    """Return a JPEG of process 14, selection value 1 (ITU T.81, annex H), its Huffman table 17 codes of 5 bits."""
    before = np.roll(stored.astype(int), 1, axis=1)
    before[:, 0] = np.r_[2 ** (bits - 1), stored[:-1, 0]]
    code = ""
    for step in (stored.astype(int) - before).ravel().tolist():
        size = abs(step).bit_length()
        code += f"{size:05b}" + (f"{step if step > 0 else step + 2**size - 1:0{size}b}" if size else "")
    code += "1" * (-len(code) % 8)
    scan = int(code, 2).to_bytes(len(code) // 8, "big").replace(b"\xff", b"\xff\x00")
    frame = b"\xff\xc3" + pack(">HBHHBBBB", 11, bits, *stored.shape, 1, 1, 0x11, 0)
    table = b"\xff\xc4" + pack(">HB16B17B", 36, 0, *[0] * 4, 17, *[0] * 11, *range(17))
    return b"\xff\xd8" + frame + table + b"\xff\xda" + pack(">HBBBBBB", 8, 1, 1, 0, 1, 0, 0) + scan + b"\xff\xd9"


def make_lut(entries: list[int], first: int, bits: int, length: int | None = None) -> Dataset:
    lut = Dataset()
    lut.LUTDescriptor, lut.LUTData = [length or len(entries), first, bits], entries
    lut["LUTDescriptor"].VR = "SS" if first < 0 else "US"
    lut["LUTData"].VR = "US"
    return lut


def shipped(name: str) -> bytes:
    """Return a file that pydicom ships for its own tests."""
    return Path(str(get_testdata_file(name, download=False))).read_bytes()


IMAGE = expose(default_rng(1), draw_chest(default_rng(2), default_rng(1), (97, 131), "bacteria"))
WIDE = IMAGE.astype(np.uint16) * 16  # as a detector of 12 bits stores it
WHOLE = {"WindowCenter": 2040.5, "WindowWidth": 4081}  # 0 to 4080
SIGNED = (WIDE.astype(np.int32) - 2048).astype(np.int16)
BIG = WIDE.astype(">u2")
LOSSLESS = wrap(encode_lossless_jpeg(WIDE, 12), uid.JPEGLosslessSV1, WIDE, BitsStored=12, **WHOLE)
J2K = wrap(encode_pillow(WIDE, "JPEG2000", no_jp2=True), uid.JPEG2000Lossless, WIDE, **WHOLE)
WAYS = {
    "8 bits": encode(IMAGE, **NARROW),
    "12 bits": encode(WIDE, BitsStored=12, **WHOLE),
    "16 bits": encode(IMAGE.astype(np.uint16) * 257, WindowCenter=32768, WindowWidth=65536),
    "signed": encode(SIGNED, BitsStored=12, WindowCenter=-7.5, WindowWidth=4081),
    "rescaled": encode(WIDE, RescaleSlope=2, RescaleIntercept=-1024, WindowCenter=3056.5, WindowWidth=8161),
    "falling": encode(4080 - WIDE, RescaleSlope=-1, RescaleIntercept=4080, **WHOLE),
    "MONOCHROME1": encode(4080 - WIDE, PhotometricInterpretation="MONOCHROME1", **WHOLE),
    "implicit": write(make(WIDE, **WHOLE), uid.ImplicitVRLittleEndian),
    "implicit and signed": write(make(SIGNED, WindowCenter=-7.5, WindowWidth=4081), uid.ImplicitVRLittleEndian),
    "big endian": write(make(BIG, **WHOLE), uid.ExplicitVRBigEndian),
    "RLE": encode_rle(WIDE, BitsStored=12, **WHOLE),
    "JPEG 2000": J2K,
    "JPEG": wrap(encode_pillow(IMAGE, "JPEG", quality=100), uid.JPEGBaseline8Bit, IMAGE, **NARROW),
    "lossless JPEG": LOSSLESS,
}
