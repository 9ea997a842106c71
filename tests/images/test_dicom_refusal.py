"""A DICOM file that is not one whole grey image is refused with the reason, and nothing it says gets out of hand."""

import time
import zlib
from collections.abc import Callable
from importlib.util import find_spec
from struct import pack
from typing import Any

import numpy as np
import pytest
from dicoms import (
    IMAGE,
    J2K,
    LOSSLESS,
    WAYS,
    WHOLE,
    WIDE,
    encode,
    encode_lossless_jpeg,
    encode_pillow,
    make_lut,
    shipped,
    wrap,
)  # fmt: skip
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import uid
from pydicom.pixels import get_decoder

from pneumonia.images.decode import describe_image, read_image
from pneumonia.images.dicom import read_dicom
from pneumonia.images.refusal import MAX_PIXELS, ImageRefusedError

needs_pylibjpeg = pytest.mark.skipif(not find_spec("libjpeg"), reason="needs the extra dicom")


def lie(image: bytes, keyword: str, value: int, old: int) -> bytes:
    """Return a file with another value in a 16-bit attribute."""
    tag = {"Rows": b"\x28\x00\x10\x00US\x02\x00", "Columns": b"\x28\x00\x11\x00US\x02\x00"}[keyword]
    assert image.count(tag + pack("<H", old)) == 1
    return image.replace(tag + pack("<H", old), tag + pack("<H", value))


def make_colour(photometric: str, samples: int = 3) -> bytes:
    extra = {"PlanarConfiguration": 0} if samples > 1 else {}
    stored = np.zeros((8, 8, samples), np.uint8)
    return encode(stored, SamplesPerPixel=samples, PhotometricInterpretation=photometric, **extra)


RUNS = pack("<16L", 1, 64, *[0] * 14) + b"\x81\x00" * 2_000_000  # of RLE: 256 MB of black
SMALL = np.zeros((8, 8), np.uint8)
REFUSED = {
    "zero rows": (encode(SMALL, Rows=0), "no rows or no columns"),
    "zero columns": (encode(SMALL, Columns=0), "no rows or no columns"),
    "frames": (encode(np.zeros((16, 8), np.uint8), Rows=8, NumberOfFrames=2), "2 frames instead of one"),
    "negative frames": (encode(SMALL, NumberOfFrames=-1), "-1 frames instead of one"),
    "no pixels": (encode(SMALL, PixelData=None), "no pixel data"),
    "floating point": (encode(SMALL, PixelData=None, FloatPixelData=bytes(256)), "no pixel data"),
    "structured report": (shipped("test-SR.dcm"), "no pixel data"),
    "empty pixels": (encode(SMALL, PixelData=b""), "damaged, truncated"),
    "cut in the header": (WAYS["12 bits"][:400], "no pixel data"),
    "cut in the pixels": (WAYS["12 bits"][:-2], "damaged, truncated"),
    "cut, but not too large": (encode(SMALL, Rows=2000, Columns=2000), "damaged, truncated"),
    "far fewer bytes than pixels": (encode(SMALL, Rows=8000, Columns=8000), "more than 200 times its size"),
    "words of windows": (encode(SMALL, WindowCenter=[1] * 2000, WindowWidth=[1] * 2000), "bytes where 1,024"),
    "items": (encode(SMALL) + b"\xfe\xff\x00\xe0" * 10_001, "more than 10,000 items"),
    "long table": (encode(SMALL, VOILUTSequence=[make_lut([0] * 65_537, 0, 16, length=2)]), "a table whose LUTData"),
    "RGB of 16 bits": (
        encode(
            np.zeros((8, 8, 3), np.uint16), SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0
        ),
        "colours not of 8",
    ),
    "cut in half": (WAYS["12 bits"][:12_000], "damaged, truncated"),
    "cut and compressed": (J2K[:-100], "no pixel data, or truncated"),
    "cut RLE": (wrap(RUNS[:70], uid.RLELossless, IMAGE), "damaged, truncated"),
    "cut codestream": (
        wrap(encode_pillow(WIDE, "JPEG2000", no_jp2=True)[:5000], uid.JPEG2000Lossless, WIDE),
        "damaged, truncated",
    ),
    "palette": (make_colour("PALETTE COLOR", samples=1), "in colour"),
    "colour labelled grey": (make_colour("MONOCHROME2"), "in colour"),
    "32 bits": (encode(SMALL.astype(np.uint32)), "not in the low bits of 8 or 16"),
    "1 bit": (encode(SMALL, BitsAllocated=1, BitsStored=1, HighBit=0), "not in the low bits of 8 or 16"),
    "more bits than allocated": (encode(SMALL, BitsStored=9, HighBit=8), "damaged, truncated or not standard"),
    "no photometric": (encode(SMALL, PhotometricInterpretation=None), "damaged, truncated or not standard"),
    "no header": (encode(SMALL, Rows=None), "damaged, truncated or not standard"),
    "window without width": (encode(SMALL, WindowCenter=1, WindowWidth=0), "damaged, truncated or not standard"),
    "infinite slope": (encode(SMALL, RescaleSlope="inf", RescaleIntercept=0), "not finite"),
    "not a number": (encode(SMALL, WindowCenter="nan", WindowWidth=9), "not finite"),
    "not a number in a LUT": (
        encode(SMALL, RescaleSlope="nan", RescaleIntercept=0, VOILUTSequence=[make_lut([0, 1], 0, 16)]),
        "not finite",
    ),
    "padding only": (encode(SMALL, PixelPaddingValue=0), "nothing but padding"),
    "short LUT": (
        encode(SMALL + 3, VOILUTSequence=[make_lut([0, 1], 0, 16, length=9)]),
        "damaged, truncated or not standard",
    ),
    "deep LUT": (encode(SMALL, VOILUTSequence=[make_lut([0, 1], 1, 65535)]), "fewer than 8 or more than 16 bits"),
    "MPEG": (wrap(b"\0\0", uid.MPEG2MPML, SMALL), "transfer syntax MPEG2 Main Profile"),
    "private": (
        encode(SMALL).replace(uid.ExplicitVRLittleEndian.encode() + b"\0", b"1.2.840.113619.5.21\0"),
        "transfer syntax 1.2.840.113619.5.21 is not supported",
    ),
    "no transfer syntax": (shipped("meta_missing_tsyntax.dcm"), "transfer syntax unknown is not supported"),
    "deflated": (shipped("image_dfl.dcm"), "Deflated Explicit VR Little Endian is not supported"),
    "RLE bomb": (wrap(RUNS, uid.RLELossless, SMALL), "more data than pixels"),
    "JPEG 2000 of another size": (lie(J2K, "Rows", 8, 97), "damaged, truncated or not standard"),
    "without preamble": (WAYS["8 bits"][132:], "not a JPEG, PNG, TIFF, WEBP, BMP or DICOM file"),
    "only the magic": (bytes(128) + b"DICM", "transfer syntax unknown is not supported"),
}


@pytest.mark.parametrize("read", [describe_image, lambda content: read_image(content, 16)])
@pytest.mark.parametrize("case", REFUSED)
def test_anything_but_one_grey_image_is_refused_with_the_reason(read: Callable[[bytes], Any], case: str):
    content, reason = REFUSED[case]
    with pytest.raises(ImageRefusedError, match=reason):
        read(content)


def wrap_ls(*segments: bytes) -> bytes:
    """Return JPEG-LS with segments before the frame of an image of 8 x 8."""
    frame = b"\xff\xf7" + pack(">HBHHBBBB", 11, 8, 8, 8, 1, 1, 0x11, 0) + b"\xff\xda\0\x08\1\1\0\0\0\0" + bytes(9)
    return wrap(b"\xff\xd8" + b"".join(segments) + frame + b"\xff\xd9", uid.JPEGLSLossless, SMALL)


SAYS_SMALL = b"\xff\xfe\x00\x0d\xff\xc3" + pack(">HBHH", 11, 12, 8, 131) + b"\0\0"  # a comment like a frame header
PLAIN = encode_lossless_jpeg(WIDE, 12)
SCAN = PLAIN.index(b"\xff\xda")
FORGED = {
    "fewer rows": (lie(LOSSLESS, "Rows", 8, 97), "a JPEG whose size is not"),
    "fewer columns": (lie(LOSSLESS, "Columns", 8, 131), "a JPEG whose size is not"),
    "a comment like a frame header": (
        wrap(b"\xff\xd8" + SAYS_SMALL + PLAIN[2:], uid.JPEGLosslessSV1, WIDE, Rows=8),
        "a JPEG whose size is not",
    ),
    "two scans of one component": (
        wrap(PLAIN[:-2] + PLAIN[SCAN:], uid.JPEGLosslessSV1, WIDE),
        "more scans than components",
    ),
    "a hierarchy (DHP)": (wrap_ls(b"\xff\xde" + pack(">HBHHBBBB", 11, 8, 65535, 65535, 1, 1, 17, 0)), "marker ffde"),
    "a palette (LSE 2)": (wrap_ls(b"\xff\xf8\0\x08\2\1\1\0\0\0"), "marker fff8"),
    "a larger size (LSE 4)": (wrap_ls(b"\xff\xf8\0\x0c\4\4" + pack(">II", 65535, 65535)), "marker fff8"),
}


@needs_pylibjpeg
@pytest.mark.parametrize("case", FORGED)
def test_a_jpeg_that_is_not_one_plain_image_of_the_headers_size_is_not_decoded(
    case: str, monkeypatch: pytest.MonkeyPatch
):
    content, reason = FORGED[case]
    for syntax in (uid.JPEGLosslessSV1, uid.JPEGLSLossless):
        monkeypatch.setattr(get_decoder(syntax), "as_array", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(ImageRefusedError, match=reason):
        read_dicom(content)


def test_a_baseline_jpeg_of_too_many_scans_is_refused_before_decoding():
    jpeg = encode_pillow(IMAGE, "JPEG")
    scan = jpeg.index(b"\xff\xda")
    content = wrap(jpeg[:scan] + b"\xff\xda\0\x08\1\1\0\0\x3f\0" * 100 + jpeg[scan:], uid.JPEGBaseline8Bit, IMAGE)
    with pytest.raises(ImageRefusedError, match="too many JPEG scans"):
        read_dicom(content)


@pytest.mark.parametrize(
    "shape",
    [
        {"Rows": 8001, "Columns": 8001},
        {"Rows": 65535, "Columns": 65535},
        {"Rows": 4000, "Columns": 4000, "NumberOfFrames": 5},
        {"Rows": 8, "Columns": 8, "NumberOfFrames": 2_000_000},
        {"Rows": 5000, "Columns": 5000, "SamplesPerPixel": 3},
    ],
)
def test_too_many_pixels_are_refused_before_decoding(shape: dict[str, int]):
    content = encode(SMALL, **shape)  # decoded, this little would be called truncated
    with pytest.raises(ImageRefusedError, match=f"more than {MAX_PIXELS:,} pixels"):
        read_dicom(content)


def test_a_deflated_file_is_refused_before_inflating(monkeypatch: pytest.MonkeyPatch):
    inflated: list[bytes] = []
    monkeypatch.setattr(zlib, "decompress", lambda data, *_: inflated.append(data))
    with pytest.raises(ImageRefusedError, match="Deflated"):
        read_dicom(shipped("image_dfl.dcm"))
    assert not inflated


@pytest.mark.parametrize("syntax", [uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEGExtended12Bit])
def test_without_its_decoder_an_image_is_refused_with_syntax_and_remedy(
    syntax: uid.UID, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(get_decoder(syntax), "_available", {})
    with pytest.raises(ImageRefusedError) as refused:
        read_dicom(wrap(b"\xff\xd8", syntax, SMALL))
    assert syntax.name in str(refused.value)
    assert str(refused.value).endswith("make setup-dicom")


LUT = list(range(0, 65536, 64))
DAMAGED = {
    **{way: WAYS[way] for way in ("8 bits", "implicit and signed", "big endian", "RLE", "JPEG 2000", "JPEG")},
    "VOI LUT": encode(WIDE, VOILUTSequence=[make_lut(LUT, -100, 16)], PixelPaddingValue=0),
    "modality LUT": encode(WIDE, ModalityLUTSequence=[make_lut(LUT, 0, 16)], VOILUTFunction="SIGMOID", **WHOLE),
}
if find_spec("libjpeg"):
    DAMAGED |= {
        "JPEG lossless": LOSSLESS,
        "JPEG-LS": shipped("MR_small_jpeg_ls_lossless.dcm"),
        "JPEG 12 bits": shipped("JPGExtended.dcm"),
    }


@settings(derandomize=True, max_examples=150, deadline=None)
@given(
    way=st.sampled_from(list(DAMAGED)),
    changes=st.lists(st.tuples(st.integers(132, 100_000), st.integers(0, 255)), max_size=20),
    header=st.booleans(),
    kept=st.integers(132, 100_000) | st.none(),
)
def test_damage_does_nothing_worse_than_a_refusal(
    way: str, changes: list[tuple[int, int]], header: bool, kept: int | None
):
    image = DAMAGED[way]
    damaged = bytearray(image)
    for place, value in changes:
        damaged[132 + place % (min(1100, len(image)) if header else len(image) - 132) - 132 * header] = value
    damaged[128:132] = b"DICM"
    start = time.thread_time()
    try:
        assert read_image(bytes(damaged[:kept]), 16).shape == (16, 16)
    except ImageRefusedError as error:
        assert str(error)
        assert not any(word in str(error) for word in ("Roe", "Jane", "4711", "20190131"))
    assert time.thread_time() - start < 10  # a few ms; a collection of garbage may fall into it


@settings(derandomize=True, max_examples=80, deadline=None)
@given(noise=st.binary(max_size=300), syntax=st.sampled_from(["", *uid.AllTransferSyntaxes]))
def test_noise_is_refused_in_every_transfer_syntax(noise: bytes, syntax: str):
    meta = b"\x02\x00\x10\x00UI" + pack("<H", len(syntax)) + syntax.encode()
    with pytest.raises(ImageRefusedError):
        read_image(bytes(128) + b"DICM" + meta + noise, 16)
