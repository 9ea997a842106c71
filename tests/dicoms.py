"""Make DICOM files of every kind."""

from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from pictures import encode as encode_image
from PIL import Image
from pydicom import Dataset, dcmwrite, uid
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate

Plane = npt.NDArray[np.integer]


NARROW = {"WindowCenter": 128, "WindowWidth": 256}  # all of 8 bits, by the formula of LINEAR


def make(stored: Plane, **attributes: Any) -> Dataset:
    """Return a dataset of an image, bits stored as allocated; attributes that are None are left out."""
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
    """Return a DICOM file of a frame that is compressed already."""
    return write(make(stored, PixelData=encapsulate([frame]), **attributes), syntax)


def encode_pillow(stored: Plane, kind: str, **options: Any) -> bytes:
    return encode_image(Image.fromarray(stored), kind, **options)
