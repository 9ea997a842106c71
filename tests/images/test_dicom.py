"""A DICOM image says what the same image says as PNG, however it is stored, or is refused with a reason."""

import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from struct import pack
from typing import Any

import numpy as np
import pytest
from dicoms import NARROW, Plane, encode, encode_pillow, make, wrap, write
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng
from PIL.PngImagePlugin import PngInfo
from projects import ROOT
from pydicom import Dataset, uid
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.pixels import get_decoder
from scipy.special import expit

from pneumonia.augment.build import read_split
from pneumonia.core.dataset import Pixels
from pneumonia.core.params_file import load_params
from pneumonia.core.runtime import map_threads
from pneumonia.images.decode import describe_image, read_image
from pneumonia.images.dicom import read_dicom
from pneumonia.images.refusal import MAX_PIXELS, ImageRefusedError
from pneumonia.records.expectations import check_images
from pneumonia.records.scan import scan_images
from pneumonia.sources.folder import fetch_folder
from pneumonia.sources.phantom import draw_chest, expose

IMAGE = expose(default_rng(1), draw_chest(default_rng(2), default_rng(1), (97, 131), "bacteria"))
WIDE = IMAGE.astype(np.uint16) * 16  # as a detector of 12 bits stores it
WHOLE = {"WindowCenter": 2040.5, "WindowWidth": 4081}  # 0 to 4080
needs_pylibjpeg = pytest.mark.skipif(not find_spec("libjpeg"), reason="needs the extra dicom")


def encode_rle(stored: Plane, **attributes: Any) -> bytes:
    image = make(stored, **attributes)
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    image.compress(uid.RLELossless, encoding_plugin="pydicom")
    return write(image, uid.RLELossless)


def encode_lossless_jpeg(stored: Plane, bits: int) -> bytes:
    """Return a JPEG of process 14, selection value 1, with a Huffman table of 17 codes of 5 bits (ITU T.81, H)."""
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


def squeeze(plane: Pixels, size: int = 64) -> Pixels:
    return read_image(encode_pillow(plane, "PNG"), size)


def show(stored: list[int], **attributes: Any) -> list[int]:
    """Return the grey values of an image of one row, stored in 16 bits with a sign."""
    pixels, _ = read_dicom(encode(np.array([stored], np.int16), **attributes))
    return pixels[0].tolist()


def shipped(name: str) -> bytes:
    return Path(str(get_testdata_file(name, download=False))).read_bytes()


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


@pytest.mark.parametrize("way", [pytest.param(w, marks=needs_pylibjpeg if w == "lossless JPEG" else ()) for w in WAYS])
def test_a_image_says_the_same_as_dicom_and_as_png(way: str):
    assert np.abs(squeeze(IMAGE).astype(int) - read_image(WAYS[way], 64)).max() <= 1


@pytest.mark.parametrize(
    "syntax", ["RLE", "bigendian", "expb", "implicit", "padded", "jp2klossless", "jpeg_ls_lossless"]
)
def test_an_image_of_pydicom_says_the_same_in_every_transfer_syntax(syntax: str):
    if syntax == "jpeg_ls_lossless":
        pytest.importorskip("libjpeg")
    assert np.array_equal(read_dicom(shipped(f"MR_small_{syntax}.dcm"))[0], read_dicom(shipped("MR_small.dcm"))[0])


@needs_pylibjpeg
def test_twelve_bits_of_jpeg_say_what_the_same_image_says_in_jpeg_2000():
    lossy, lossless = (read_dicom(shipped(name))[0] for name in ("JPGExtended.dcm", "JPEG2000.dcm"))
    assert np.corrcoef(lossy.ravel(), lossless.ravel())[0, 1] > 0.95


def test_a_dicom_image_is_described_by_its_size_its_photometric_interpretation_and_its_contrast():
    image = describe_image(encode(255 - IMAGE, PhotometricInterpretation="MONOCHROME1", **NARROW))
    assert (image.width, image.height, image.mode) == (131, 97, "DICOM MONOCHROME1")
    assert image.contrast == pytest.approx(IMAGE.std())


@pytest.mark.parametrize(
    ("photometric", "shape", "inverted"),
    [
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME1", "IDENTITY", True),
        ("MONOCHROME1", "INVERSE", True),  # as digital X-ray writes it; twice would be once too many
    ],
)
def test_a_image_is_inverted_once_or_not(photometric: str, shape: str, inverted: bool):
    content = encode(IMAGE, PhotometricInterpretation=photometric, PresentationLUTShape=shape, **NARROW)
    assert np.array_equal(read_dicom(content)[0], 255 - IMAGE if inverted else IMAGE)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID", None]),
    center=st.integers(-3000, 3000),
    width=st.integers(2, 5000),
    slope=st.sampled_from([-2.0, -1.0, 0.5, 1.0, 3.0]),
)
def test_windows_follow_the_formulas_of_the_standard(function: str | None, center: int, width: int, slope: float):
    # PS3.3 C.11.2.1.2 and C.11.2.1.3, for an output of 0 to 1
    stored = np.arange(-2048, 2048, 7)
    x = slope * stored + 11
    expected = {
        "LINEAR": (x - (center - 0.5)) / (width - 1) + 0.5,
        "LINEAR_EXACT": (x - center) / width + 0.5,
        "SIGMOID": expit(4 * (x - center) / width),
    }[function or "LINEAR"]
    window = {"WindowCenter": center, "WindowWidth": width, "RescaleSlope": slope, "RescaleIntercept": 11}
    shown = show(stored.tolist(), **window, **({"VOILUTFunction": function} if function else {}))
    assert np.abs(255 * np.clip(expected, 0, 1) - shown).max() <= 0.5 + 1e-9


def test_of_several_windows_the_first_counts():
    assert show([0, 50, 100], WindowCenter=[50.5, 500], WindowWidth=[101, 7]) == [0, 128, 255]


def make_lut(entries: list[int], first: int, bits: int, length: int | None = None) -> Dataset:
    lut = Dataset()
    lut.LUTDescriptor, lut.LUTData = [length or len(entries), first, bits], entries
    lut["LUTDescriptor"].VR = "SS" if first < 0 else "US"
    lut["LUTData"].VR = "US"
    return lut


@pytest.mark.parametrize(("bits", "top"), [(8, 255), (10, 1023), (12, 4095), (16, 65535)])
@pytest.mark.parametrize("rescale", [{}, {"RescaleSlope": 3, "RescaleIntercept": 1}])
def test_a_voi_lut_is_looked_up_and_holds_at_its_ends(bits: int, top: int, rescale: dict[str, Any]):
    curve = [round(top * (place / 999) ** 2) for place in range(1000)]
    stored = [-30000, -101, -100, 0, 300, 899, 900, 21845, 30000]  # 21845 * 3 + 1 would wrap to 0
    places = [np.clip((3 * x + 1 if rescale else x) + 100, 0, 999) for x in stored]
    shown = show(stored, VOILUTSequence=[make_lut(curve, -100, bits)], **rescale)
    assert shown == [round(255 * curve[place] / top) for place in places]


def test_a_voi_lut_may_have_an_entry_for_every_value_of_sixteen_bits():
    lut = make_lut([0], 0, 16)
    lut.LUTDescriptor = [0, 0, 16]  # 65,536 does not fit into 16 bits
    lut["LUTData"].VR, lut["LUTData"].value = "OW", np.arange(65536)[::-1].astype("<u2").tobytes()
    stored = np.array([[0, 257, 65535]], np.uint16)
    assert read_dicom(encode(stored, VOILUTSequence=[lut]))[0].tolist() == [[255, 254, 0]]


def test_a_value_between_two_entries_of_a_voi_lut_takes_the_nearer():
    lut = make_lut([0, 65535], 0, 16)
    assert show([0, 1, 4, 6, 9], VOILUTSequence=[lut], RescaleSlope=0.1, RescaleIntercept=0) == [0, 0, 0, 255, 255]


def test_a_voi_lut_goes_before_a_window_and_before_its_alternatives():
    luts = [make_lut([0, 65535], 0, 16), make_lut([0, 0], 0, 16)]
    assert show([0, 1], VOILUTSequence=luts, WindowCenter=500, WindowWidth=2) == [0, 255]


def test_a_modality_lut_is_looked_up_before_the_window():
    lut = make_lut([4000, 2000, 0], 5, 16)
    assert show([5, 6, 7], ModalityLUTSequence=[lut], WindowCenter=2000.5, WindowWidth=4001) == [255, 128, 0]


def test_without_a_window_grey_goes_from_the_darkest_to_the_brightest_pixel():
    assert show([-300, -100, 100, 700]) == [0, 51, 102, 255]


@pytest.mark.parametrize("limits", [{"PixelPaddingValue": 9}, {"PixelPaddingValue": 9, "PixelPaddingRangeLimit": 7}])
def test_padding_does_not_count_for_the_darkest_and_the_brightest_pixel(limits: dict[str, int]):
    assert show([9, 9, 100, 150, 200], **limits) == [0, 0, 0, 128, 255]


def test_padding_may_lie_below_black_after_a_modality_lut():
    lut = make_lut([7, 100, 150, 200], 0, 16)
    assert show([0, 1, 2, 3], ModalityLUTSequence=[lut], PixelPaddingValue=0) == [0, 0, 128, 255]


@pytest.mark.parametrize("limits", [(-2000, -2000), (-2000, -1990), (-1990, -2000)])
def test_padding_may_be_a_range_whichever_end_comes_first(limits: tuple[int, int]):
    value, limit = limits
    seen = sorted(set(limits))
    assert show([*seen, 0, 100], PixelPaddingValue=value, PixelPaddingRangeLimit=limit) == [0] * len(seen) + [0, 255]


def test_a_window_shows_padding_like_any_other_value():
    assert show([0, 255], PixelPaddingValue=255, **NARROW) == [0, 255]


def test_a_blank_image_has_no_contrast():
    assert describe_image(encode(np.full((70, 80), 7, np.uint16))).contrast == 0


def test_bits_above_those_stored_are_ignored():
    content = encode(WIDE | 0xA000, BitsStored=12, **WHOLE)  # where old files keep an overlay
    assert np.array_equal(read_dicom(content)[0], IMAGE)


def test_of_a_pixel_stored_in_the_upper_bits_nothing_is_guessed():
    with pytest.raises(ImageRefusedError, match="not in the lower part of 8 or 16"):
        read_dicom(encode(WIDE * 16, BitsStored=12, HighBit=15))


@settings(derandomize=True, max_examples=40, deadline=None)
@given(dtype=st.sampled_from([np.uint8, np.int8, np.uint16, np.int16]), seed=st.integers(0, 99), window=st.booleans())
def test_more_signal_never_is_darker(dtype: Any, seed: int, window: bool):
    limits = np.iinfo(dtype)
    stored = np.sort(default_rng(seed).integers(limits.min, limits.max, (1, 300), dtype, endpoint=True))
    pixels, _ = read_dicom(encode(stored, **(NARROW if window else {})))
    assert (np.diff(pixels[0].astype(int)) >= 0).all()
    assert window or (pixels.min(), pixels.max()) == (0, 255)


def lie(image: bytes, keyword: str, value: int, old: int) -> bytes:
    """Return a file whose attribute, a number of 16 bits, says something else."""
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
    "cut, but not too large": (encode(SMALL, Rows=8000, Columns=8000), "damaged, truncated"),
    "cut in half": (WAYS["12 bits"][:12_000], "damaged, truncated"),
    "cut and compressed": (J2K[:-100], "no pixel data, or truncated"),
    "cut RLE": (wrap(RUNS[:70], uid.RLELossless, IMAGE), "damaged, truncated"),
    "cut codestream": (
        wrap(encode_pillow(WIDE, "JPEG2000", no_jp2=True)[:5000], uid.JPEG2000Lossless, WIDE),
        "damaged, truncated",
    ),
    "RGB": (make_colour("RGB"), "in colour"),
    "YBR": (make_colour("YBR_FULL"), "in colour"),
    "palette": (make_colour("PALETTE COLOR", samples=1), "in colour"),
    "colour that says it is grey": (make_colour("MONOCHROME2"), "in colour"),
    "32 bits": (encode(SMALL.astype(np.uint32)), "not in the lower part of 8 or 16"),
    "1 bit": (encode(SMALL, BitsAllocated=1, BitsStored=1, HighBit=0), "not in the lower part of 8 or 16"),
    "more bits than allocated": (encode(SMALL, BitsStored=9, HighBit=8), "damaged, truncated or against"),
    "no photometric": (encode(SMALL, PhotometricInterpretation=None), "damaged, truncated or against"),
    "no header": (encode(SMALL, Rows=None), "damaged, truncated or against"),
    "window without width": (encode(SMALL, WindowCenter=1, WindowWidth=0), "damaged, truncated or against"),
    "endless slope": (encode(SMALL, RescaleSlope="inf", RescaleIntercept=0), "not finite"),
    "no number": (encode(SMALL, WindowCenter="nan", WindowWidth=9), "not finite"),
    "no number in a LUT": (
        encode(SMALL, RescaleSlope="nan", RescaleIntercept=0, VOILUTSequence=[make_lut([0, 1], 0, 16)]),
        "not finite",
    ),
    "padding only": (encode(SMALL, PixelPaddingValue=0), "nothing but padding"),
    "short LUT": (
        encode(SMALL + 3, VOILUTSequence=[make_lut([0, 1], 0, 16, length=9)]),
        "damaged, truncated or against",
    ),
    "deep LUT": (encode(SMALL, VOILUTSequence=[make_lut([0, 1], 1, 65535)]), "other than 8 to 16 bits"),
    "MPEG": (wrap(b"\0\0", uid.MPEG2MPML, SMALL), "transfer syntax MPEG2 Main Profile"),
    "private": (
        encode(SMALL).replace(uid.ExplicitVRLittleEndian.encode() + b"\0", b"1.2.840.113619.5.21\0"),
        "transfer syntax 1.2.840.113619.5.21 is not supported",
    ),
    "no transfer syntax": (shipped("meta_missing_tsyntax.dcm"), "transfer syntax unknown is not supported"),
    "deflated": (shipped("image_dfl.dcm"), "Deflated Explicit VR Little Endian is not supported"),
    "RLE bomb": (wrap(RUNS, uid.RLELossless, SMALL), "more data than pixels"),
    "JPEG 2000 of another size": (lie(J2K, "Rows", 8, 97), "damaged, truncated or against"),
    "without preamble": (WAYS["8 bits"][132:], "not a JPEG, PNG or DICOM file"),
    "only the magic": (bytes(128) + b"DICM", "transfer syntax unknown is not supported"),
}


@pytest.mark.parametrize("read", [describe_image, lambda content: read_image(content, 16)])
@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_single_grey_image_is_refused_with_the_reason(read: Callable[[bytes], Any], case: str):
    content, reason = REFUSED[case]
    with pytest.raises(ImageRefusedError, match=reason):
        read(content)


SAYS_SMALL = b"\xff\xfe\x00\x0d\xff\xc3" + pack(">HBHH", 11, 12, 8, 131) + b"\0\0"  # a comment like a frame's head


@needs_pylibjpeg
@pytest.mark.parametrize(
    "content",
    [
        lie(LOSSLESS, "Rows", 8, 97),
        lie(LOSSLESS, "Columns", 8, 131),
        wrap(b"\xff\xd8" + SAYS_SMALL + encode_lossless_jpeg(WIDE, 12)[2:], uid.JPEGLosslessSV1, WIDE, Rows=8),
    ],
)
def test_a_jpeg_that_asks_for_more_than_the_header_says_is_not_decoded(content: bytes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(get_decoder(uid.JPEGLosslessSV1), "as_array", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(ImageRefusedError, match="a JPEG of another size"):
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
def test_more_pixels_than_any_image_has_are_refused_before_they_are_decoded(shape: dict[str, int]):
    content = encode(SMALL, **shape)  # decoding this little would say `truncated`
    with pytest.raises(ImageRefusedError, match=f"more than {MAX_PIXELS:,} pixels"):
        read_dicom(content)


def test_a_deflated_file_is_refused_before_it_is_inflated(monkeypatch: pytest.MonkeyPatch):
    inflated: list[bytes] = []
    monkeypatch.setattr(zlib, "decompress", lambda data, *_: inflated.append(data))
    with pytest.raises(ImageRefusedError, match="Deflated"):
        read_dicom(shipped("image_dfl.dcm"))
    assert not inflated


@pytest.mark.parametrize("syntax", [uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEGExtended12Bit])
def test_without_its_decoder_a_image_is_refused_with_transfer_syntax_and_remedy(
    syntax: uid.UID, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(get_decoder(syntax), "_available", {})
    with pytest.raises(ImageRefusedError) as refused:
        read_dicom(wrap(b"\xff\xd8", syntax, SMALL))
    assert syntax.name in str(refused.value)
    assert str(refused.value).endswith("make setup-dicom")


@pytest.mark.parametrize("way", ["8 bits", "12 bits", "RLE", "JPEG 2000", "JPEG"])
def test_most_images_need_pydicom_and_pillow_only(way: str):
    script = (
        "import sys; sys.modules.update(dict.fromkeys(('pylibjpeg', 'libjpeg', 'openjpeg', 'gdcm')));"
        "from pneumonia.images.dicom import read_dicom; print(read_dicom(sys.stdin.buffer.read())[0].sum())"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, input=WAYS[way], capture_output=True, check=True)
    assert int(done.stdout) == read_dicom(WAYS[way])[0].sum()


DAMAGED = [
    *(WAYS[way] for way in ("8 bits", "implicit and signed", "big endian", "RLE", "JPEG 2000", "JPEG")),
    encode(WIDE, VOILUTSequence=[make_lut(list(range(0, 65536, 64)), -100, 16)], PixelPaddingValue=0),
    encode(WIDE, ModalityLUTSequence=[make_lut(list(range(0, 65536, 64)), 0, 16)], VOILUTFunction="SIGMOID", **WHOLE),
    *([LOSSLESS, shipped("MR_small_jpeg_ls_lossless.dcm"), shipped("JPGExtended.dcm")] if find_spec("libjpeg") else []),
]


@settings(derandomize=True, max_examples=400, deadline=None)
@given(
    image=st.sampled_from(DAMAGED),
    changes=st.lists(st.tuples(st.integers(132, 100_000), st.integers(0, 255)), max_size=20),
    header=st.booleans(),
    kept=st.integers(132, 100_000) | st.none(),
)
def test_no_damage_does_more_than_have_a_image_refused(
    image: bytes, changes: list[tuple[int, int]], header: bool, kept: int | None
):
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
    assert time.thread_time() - start < 1


@settings(derandomize=True, max_examples=150, deadline=None)
@given(noise=st.binary(max_size=300), syntax=st.sampled_from(["", *uid.AllTransferSyntaxes]))
def test_noise_is_refused_in_every_transfer_syntax(noise: bytes, syntax: str):
    meta = b"\x02\x00\x10\x00UI" + pack("<H", len(syntax)) + syntax.encode()
    with pytest.raises(ImageRefusedError):
        read_image(bytes(128) + b"DICM" + meta + noise, 16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of DICOM images as it comes from a hospital, one of them a report."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(12):
        label = ("NORMAL", "PNEUMONIA")[number % 2]
        body = expose(default_rng(number), draw_chest(default_rng(number), default_rng(9), (80, 100), label[6:9]))
        (folder / label).mkdir(exist_ok=True)
        (folder / label / f"{number}.{('dcm', 'DICOM')[number % 2]}").write_bytes(encode(body, **NARROW))
    (folder / "NORMAL" / "report.dcm").write_bytes(shipped("test-SR.dcm"))
    return folder


def test_a_folder_of_dicom_images_is_fetched_validated_and_made_into_images_to_train_on(folder: Path, tmp_path: Path):
    fetch_folder(folder, tmp_path / "raw")
    records, refused = scan_images(tmp_path / "raw")
    assert refused["path"].tolist() == ["all/NORMAL/report.dcm"]
    assert records["mode"].unique().tolist() == ["DICOM MONOCHROME2"]
    params = load_params()
    lenient = params.validate_.model_copy(update={"max_refused_share": 0.1})
    checks = check_images(records, refused, lenient, params.data, tmp_path / "docs")
    assert [str(check) for check in checks if check.success is False] == []
    images = read_split(records, tmp_path / "raw", 32).images
    expected = [squeeze(read_dicom((tmp_path / "raw" / path).read_bytes())[0], 32) for path in records["path"]]
    assert np.array_equal(images, expected)


def test_a_png_that_mentions_dicom_stays_a_png():
    text = PngInfo()
    text.add_text("Comment", "made from DICM by hand")
    content = encode_pillow(IMAGE, "PNG", pnginfo=text)
    assert b"DICM" in content[:128]
    assert np.array_equal(read_image(content, 64), squeeze(IMAGE))


def test_threads_read_what_one_reads():
    images = list(WAYS.values()) * 4 if find_spec("libjpeg") else [WAYS["RLE"], WAYS["12 bits"]] * 20
    together = map_threads(read_dicom, images, desc="images")
    assert all(np.array_equal(one, read_dicom(image)[0]) for (one, _), image in zip(together, images, strict=True))


STRANGE = {  # in what is not looked at, or does no harm
    "characters": {"SpecificCharacterSet": "ISO_IR 999", "PatientName": b"R\xff\xfe^\x01"},
    "date": {"PatientBirthDate": "yesterday", "PatientAge": "seven"},
    "number": {"WindowCenter": "128.00000000000000000"},
    "padding": {"PixelData": IMAGE.tobytes() + bytes(7)},
    "frames": {"NumberOfFrames": 0},
}


@pytest.mark.parametrize("strange", STRANGE)
def test_a_image_is_read_in_spite_of_what_pydicom_warns_of_and_nothing_is_printed(strange: str):
    script = (
        "import logging, sys; logging.basicConfig(); from pneumonia.images.decode import read_image;"
        "print(read_image(sys.stdin.buffer.read(), 64).sum())"
    )
    command, content = [sys.executable, "-W", "error", "-c", script], encode(IMAGE, **NARROW | STRANGE[strange])
    done = subprocess.run(command, cwd=ROOT, input=content, capture_output=True)
    assert done.stderr == b""
    assert int(done.stdout) == squeeze(IMAGE).sum()


def test_pydicom_is_not_imported_before_there_is_a_dicom_image():
    script = "import sys, pneumonia.images.decode; assert 'pydicom' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
