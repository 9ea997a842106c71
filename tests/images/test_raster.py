"""Every common format is read upright and in full depth, and what would cost too much is refused before decoding."""

import time
from struct import pack
from typing import Any
from zlib import compress, crc32

import numpy as np
import numpy.typing as npt
import pytest
from dicoms import IMAGE, NARROW, shipped
from dicoms import encode as encode_dicom
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encode
from PIL import Image

from pneumonia.images.decode import describe_image, read_image
from pneumonia.images.refusal import ImageRefusedError

GREY = Image.fromarray(IMAGE)
KINDS = {"JPEG": {"quality": 100}, "PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}}
WIDE = IMAGE.astype(np.uint16)


def chunk(name: bytes, data: bytes) -> bytes:
    return pack(">I", len(data)) + name + data + pack(">I", crc32(name + data))


def insert(png: bytes, *chunks: bytes) -> bytes:
    return png[:33] + b"".join(chunks) + png[33:]


def distance(one: bytes, other: bytes) -> int:
    return int(np.abs(read_image(one, 64).astype(int) - read_image(other, 64)).max())


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("BMP", {}),
        ("WEBP", {"lossless": True}),
        *(("TIFF", {"compression": way}) for way in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits")),
        ("TIFF", {"big_tiff": True}),
    ],
)
def test_every_lossless_format_has_the_pixels_of_the_same_image_as_png(kind: str, options: dict[str, Any]):
    assert distance(encode(GREY, kind, **options), encode(GREY)) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_upright_and_described_so(kind: str, orientation: int):
    exif = Image.Exif()
    exif[274] = orientation
    # The inverse of what orientation asks for; 6 and 8 undo each other.
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}.get(orientation)
    turned = GREY if back is None else GREY.transpose(Image.Transpose(back))
    content = encode(turned, kind, exif=exif, **KINDS[kind])
    assert distance(content, encode(GREY)) <= (3 if kind == "JPEG" else 0)
    info = describe_image(content)
    assert (info.width, info.height) == GREY.size


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x09"])
def test_a_damaged_exif_block_turns_nothing(exif: bytes):
    assert distance(encode(GREY, "JPEG", exif=exif, quality=100), encode(GREY)) <= 3


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_fewer_than_sixteen_bits_are_scaled_by_the_fewest_that_hold_them(kind: str, bits: int):
    values = WIDE << (bits - 8)
    values[0, 0] = 2**bits - 1
    content = encode(Image.fromarray(values), kind)
    plain = IMAGE.copy()
    plain[0, 0] = 255
    assert distance(content, encode(Image.fromarray(plain))) <= 1
    assert describe_image(content).mode == f"I;16 of {bits} bits"


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_values_moved_up_are_moved_down_where_few_grey_values_would_be_left(kind: str):
    content = encode(Image.fromarray((WIDE << 4) + 32768), kind)
    least, most = int(IMAGE.min()), int(IMAGE.max())
    expected = np.rint(((IMAGE.astype(float) - least) * 16) / 4095 * 255).astype(np.uint8)
    assert distance(content, encode(Image.fromarray(expected))) <= 1 and most - least > 128
    assert describe_image(content).mode == "I;16 of 12 bits"


@pytest.mark.parametrize(
    ("stated", "mode"), [(12, "I;16, stated 12"), (16, "I;16"), (8, "I;16"), (0, "I;16 of 10 bits")]
)
def test_stated_bits_take_precedence_over_the_range_where_they_hold_the_values(stated: int, mode: str):
    values = (WIDE << 2) | 512
    content = insert(encode(Image.fromarray(values)), chunk(b"sBIT", bytes([stated])))
    assert describe_image(content).mode == mode


@settings(derandomize=True, max_examples=20, deadline=None)
@given(top=st.integers(2**14, 2**16 - 1), seed=st.integers(0, 99))
def test_sixteen_bits_are_divided_by_257(top: int, seed: int):
    values = np.random.default_rng(seed).integers(0, top, (8, 8), np.uint16, endpoint=True)
    values[0, 0] = top
    assert np.array_equal(read_image(encode(Image.fromarray(values)), 8), values // 257)


def encode_colour(values: npt.NDArray[np.uint16], kind: str) -> bytes:
    """Return grey as RGB of 16 bits, which Pillow cannot write."""
    colour = np.repeat(values[..., None], 3, axis=2)
    height, width = values.shape
    if kind == "PNG":
        header = pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colour)
        body = chunk(b"IHDR", header) + chunk(b"IDAT", compress(rows)) + chunk(b"IEND", b"")
        return b"\x89PNG\r\n\x1a\n" + body
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, 146), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 152),
            (277, 3, 1, 3), (278, 3, 1, height), (279, 4, 1, colour.nbytes), (284, 3, 1, 1)]  # fmt: skip
    entries = b"".join(pack("<HHII", *tag) for tag in tags)
    start = b"II*\0" + pack("<IH", 8, len(tags)) + entries + pack("<I", 0)
    return start.ljust(146, b"\0") + pack("<HHH", 16, 16, 16) + colour.astype("<u2").tobytes()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_colour_of_sixteen_bits_is_read_if_it_uses_them_and_refused_if_it_holds_fewer(kind: str):
    assert distance(encode_colour(WIDE * 257, kind), encode(GREY)) <= 1
    with pytest.raises(ImageRefusedError, match="colour of 16 bits that holds 14 or fewer: save it as grey"):
        read_image(encode_colour(WIDE * 16, kind), 16)


def test_a_tiff_whose_white_is_zero_is_inverted_in_sixteen_bits_as_in_eight():
    content = encode(Image.fromarray(65535 - WIDE * 257), "TIFF", tiffinfo={262: 0})
    assert distance(content.replace(pack("<HHIH", 262, 3, 1, 1), pack("<HHIH", 262, 3, 1, 0)), encode(GREY)) <= 1


@pytest.mark.parametrize("mode", ["I", "F"])
def test_values_without_a_black_and_white_are_refused(mode: str):
    with pytest.raises(ImageRefusedError, match="save it with 8 or 16 bits"):
        read_image(encode(GREY.convert(mode), "TIFF"), 8)


@pytest.mark.parametrize("brand", [b"heic", b"mif1", b"heix", b"hevc"])
def test_heic_is_refused_with_how_to_convert_it(brand: bytes):
    with pytest.raises(ImageRefusedError, match="HEIC: convert to JPEG or PNG first, for example with heif-convert"):
        read_image(pack(">I", 24) + b"ftyp" + brand + bytes(200), 8)


@pytest.mark.parametrize("name", ["rgb_small_odd", "rgb_rle", "rgb_jpeg_gdcm", "ybr_full_422_uncompressed"])
def test_a_secondary_capture_in_colour_becomes_grey(name: str):
    assert describe_image(shipped(f"SC_{name}.dcm")).mode.startswith(("DICOM RGB", "DICOM YBR"))


def test_a_colour_capture_of_grey_has_the_pixels_of_the_same_image_as_png():
    stored = np.repeat(IMAGE[..., None], 3, axis=2)
    colour = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    assert distance(encode_dicom(stored, **colour), encode(GREY)) == 0


def test_modality_view_and_body_part_are_read_and_nothing_else_that_stands_there():
    info = describe_image(encode_dicom(IMAGE, Modality="DX", ViewPosition="PA", BodyPartExamined="CHEST", **NARROW))
    assert (info.modality, info.view, info.body_part) == ("DX", "PA", "CHEST")
    assert describe_image(encode_dicom(IMAGE, Modality="Roe^Jane", **NARROW)).modality == ""


def repeat_scans(scans: int) -> bytes:
    jpeg = encode(GREY, "JPEG", progressive=True)
    last = jpeg.rindex(b"\xff\xda")
    return jpeg[:last] + jpeg[last:-2] * scans + jpeg[-2:]


def bomb_tiff(**tags: int) -> bytes:
    """Return a TIFF with 400 tags that each hold the whole file."""
    entries = b"".join(pack("<HHII", 50_000 + tag, 7, 500_000, 0) for tag in range(400))
    return b"II*\0" + pack("<IH", 8, 400) + entries + bytes(500_000)


def enlarge(jpeg: bytes, side: int) -> bytes:
    """Return a progressive JPEG whose header states another size."""
    frame = jpeg.index(b"\xff\xc2")
    return jpeg[: frame + 5] + pack(">HH", side, side) + jpeg[frame + 9 :]


SEGMENTS = encode(GREY, "JPEG").replace(b"\xff\xdb", b"\xff\xe1\0\x09Exif\0\0a" * 2000 + b"\xff\xdb", 1)
ANIMATED = {"save_all": True, "append_images": [GREY.point(lambda value: 255 - value)]}
BOMBS = {
    "scans": (repeat_scans(890), "too many JPEG scans"),
    "scans of a large image": (enlarge(repeat_scans(10), 8000), "too many JPEG scans"),
    "segments": (SEGMENTS, "too many JPEG scans"),
    "blank pixels": (encode(Image.new("RGBA", (2200, 2200))), "more than 200 times its size"),
    "profiles": (insert(encode(GREY), *[chunk(b"iCCP", b"a\0\0" + compress(bytes(2**20)))] * 2), "too many chunks"),
    "texts": (insert(encode(GREY), *[chunk(b"tEXt", b"a\0b")] * 1001), "too many chunks"),
    "long text": (insert(encode(GREY), chunk(b"zTXt", b"a\0\0" + compress(bytes(2**22)))), "damaged or truncated"),
    "animated PNG": (encode(GREY, **ANIMATED), "an animation"),
    "animated WebP": (encode(GREY, "WEBP", **ANIMATED), "an animation"),
    "pages": (encode(GREY, "TIFF", **ANIMATED), "several pages"),
    "tags": (bomb_tiff(), "tags that are larger than the file"),
    "WebP canvas": (b"RIFF\x40\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + b"\xfe\x3f\0\xfe\x3f\0" + bytes(40), "64,000,000"),
}


@pytest.mark.parametrize("case", BOMBS)
def test_what_would_cost_too_much_is_refused_at_once(case: str):
    content, reason = BOMBS[case]
    start = time.thread_time()
    with pytest.raises(ImageRefusedError, match=reason):
        read_image(content, 16)
    assert time.thread_time() - start < 1


@settings(derandomize=True, max_examples=120, deadline=None)
@given(
    kind=st.sampled_from(["TIFF", "WEBP", "BMP", "LZW", "deep"]),
    changes=st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 255)), max_size=20),
    kept=st.integers(1, 20_000),
)
def test_damage_does_nothing_worse_than_a_refusal(kind: str, changes: list[tuple[int, int]], kept: int):
    damaged = bytearray(DAMAGED[kind])
    for place, value in changes:
        damaged[place % len(damaged)] = value
    try:
        assert read_image(bytes(damaged[:kept]), 16).shape == (16, 16)
    except ImageRefusedError as error:
        assert str(error)
        assert " at 0x" not in str(error)  # the same file is refused with the same words


DAMAGED = {
    **{kind: encode(GREY, kind) for kind in ("TIFF", "WEBP", "BMP")},
    "LZW": encode(GREY, "TIFF", compression="tiff_lzw"),
    "deep": encode(Image.fromarray(WIDE * 16), "TIFF"),
}
