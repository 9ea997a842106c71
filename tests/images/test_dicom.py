"""A DICOM image has the pixels of the same image as PNG, however it is stored."""

import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from dicoms import IMAGE, NARROW, WAYS, WHOLE, WIDE, encode, encode_pillow, shipped
from PIL.PngImagePlugin import PngInfo
from projects import ROOT

from pneumonia.core.dataset import Pixels
from pneumonia.core.runtime import map_threads
from pneumonia.images.decode import describe_image, read_image
from pneumonia.images.dicom import read_dicom
from pneumonia.images.refusal import ImageRefusedError

needs_pylibjpeg = pytest.mark.skipif(not find_spec("libjpeg"), reason="needs the extra dicom")


def resize(plane: Pixels, size: int = 64) -> Pixels:
    return read_image(encode_pillow(plane, "PNG"), size)


@pytest.mark.parametrize("way", [pytest.param(w, marks=needs_pylibjpeg if w == "lossless JPEG" else ()) for w in WAYS])
def test_an_image_has_the_same_pixels_as_dicom_and_as_png(way: str):
    assert np.abs(resize(IMAGE).astype(int) - read_image(WAYS[way], 64)).max() <= 1


@pytest.mark.parametrize(
    "syntax", ["RLE", "bigendian", "expb", "implicit", "padded", "jp2klossless", "jpeg_ls_lossless"]
)
def test_pydicoms_own_image_has_the_same_pixels_in_every_transfer_syntax(syntax: str):
    if syntax == "jpeg_ls_lossless":
        pytest.importorskip("libjpeg")
    assert np.array_equal(read_dicom(shipped(f"MR_small_{syntax}.dcm"))[0], read_dicom(shipped("MR_small.dcm"))[0])


@needs_pylibjpeg
def test_a_twelve_bit_jpeg_agrees_with_the_same_image_as_jpeg_2000():
    lossy, lossless = (read_dicom(shipped(name))[0] for name in ("JPGExtended.dcm", "JPEG2000.dcm"))
    assert np.corrcoef(lossy.ravel(), lossless.ravel())[0, 1] > 0.95


def test_a_description_gives_size_photometric_interpretation_and_contrast():
    image = describe_image(encode(255 - IMAGE, PhotometricInterpretation="MONOCHROME1", **NARROW))
    assert (image.width, image.height, image.mode) == (131, 97, "DICOM MONOCHROME1")
    assert image.contrast == pytest.approx(IMAGE.std())


def test_a_blank_image_has_no_contrast():
    assert describe_image(encode(np.full((70, 80), 7, np.uint16))).contrast == 0


def test_bits_above_those_stored_are_ignored():
    content = encode(WIDE | 0xA000, BitsStored=12, **WHOLE)  # where old files keep an overlay
    assert np.array_equal(read_dicom(content)[0], IMAGE)


def test_pixels_in_the_high_bits_are_refused_not_guessed():
    with pytest.raises(ImageRefusedError, match="not in the low bits of 8 or 16"):
        read_dicom(encode(WIDE * 16, BitsStored=12, HighBit=15))


STRANGE = {  # where it is ignored or does no harm
    "characters": {"SpecificCharacterSet": "ISO_IR 999", "PatientName": b"R\xff\xfe^\x01"},
    "date": {"PatientBirthDate": "yesterday", "PatientAge": "seven"},
    "number": {"WindowCenter": "128.00000000000000000"},
    "padding": {"PixelData": IMAGE.tobytes() + bytes(7)},
    "frames": {"NumberOfFrames": 0},
}
COMMON = [WAYS[way] for way in ("8 bits", "12 bits", "RLE", "JPEG 2000", "JPEG")]
SCRIPT = """
import logging, sys
from pathlib import Path
logging.basicConfig()
sys.modules.update(dict.fromkeys(("pylibjpeg", "libjpeg", "openjpeg", "gdcm")))
from pneumonia.images.decode import read_image
print(int("pydicom" in sys.modules), *(read_image(Path(path).read_bytes(), 64).sum() for path in sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[int], str]:
    """Read images in a process without optional decoders whose warnings are errors.

    Return whether pydicom was there before an image was, the sum of each image's pixels, and what was said.
    """
    images = [*COMMON, *(encode(IMAGE, **NARROW | attributes) for attributes in STRANGE.values())]
    paths = [tmp_path_factory.getbasetemp() / f"{number}.dcm" for number in range(len(images))]
    for path, content in zip(paths, images, strict=True):
        path.write_bytes(content)
    command = [sys.executable, "-W", "error", "-c", SCRIPT, *map(str, paths)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return [int(number) for number in done.stdout.split()], done.stderr


def test_common_syntaxes_need_only_pydicom_and_pillow(elsewhere: tuple[list[int], str]):
    assert elsewhere[0][1 : 1 + len(COMMON)] == [read_image(image, 64).sum() for image in COMMON]


def test_images_that_pydicom_warns_of_are_read_and_nothing_is_printed(elsewhere: tuple[list[int], str]):
    assert elsewhere[0][1 + len(COMMON) :] == [resize(IMAGE).sum()] * len(STRANGE)
    assert elsewhere[1] == ""


def test_pydicom_is_imported_only_for_a_dicom_image(elsewhere: tuple[list[int], str]):
    assert elsewhere[0][0] == 0


def test_a_png_that_mentions_dicom_stays_a_png():
    text = PngInfo()
    text.add_text("Comment", "made from DICM by hand")
    content = encode_pillow(IMAGE, "PNG", pnginfo=text)
    assert b"DICM" in content[:128]
    assert np.array_equal(read_image(content, 64), resize(IMAGE))


def test_threads_read_the_same_pixels_as_one():
    images = list(WAYS.values()) * 4 if find_spec("libjpeg") else [WAYS["RLE"], WAYS["12 bits"]] * 20
    together = map_threads(read_dicom, images, desc="images")
    assert all(np.array_equal(one.grey, read_dicom(image).grey) for one, image in zip(together, images, strict=True))
