"""Every file becomes a grey square, the same each time, or is refused with a reason."""

import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from struct import pack
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encode
from PIL import Image, ImageFilter
from projects import ROOT

from pneumonia.core.dataset import Pixels
from pneumonia.images.decode import describe_image, read_file, read_image
from pneumonia.images.refusal import MAX_PIXELS, ImageRefusedError


def draw_image(width: int = 96, height: int = 64, noise: float = 6.0) -> Image.Image:
    """Draw something with the slopes, edges and grain of a radiograph."""
    y, x = np.mgrid[:height, :width] / max(width, height)
    lungs = 90 * np.exp(-(((x - 0.25) / 0.12) ** 2 + ((y - 0.3) / 0.2) ** 2)) + 60 * (x > 0.7)
    grain = np.random.default_rng(0).normal(0, noise, (height, width))
    plane = np.clip(40 + 60 * y + lungs + grain, 0, 255).astype(np.uint8)
    return Image.fromarray(plane).filter(ImageFilter.GaussianBlur(max(width, height) / 1000))


GREY = draw_image()
JPEG, PNG = encode(GREY, "JPEG"), encode(GREY)
PLANE = np.asarray(GREY)


def resize(plane: Pixels, size: int) -> Pixels:
    return np.asarray(Image.fromarray(plane).resize((size, size), Image.Resampling.BILINEAR))


def distance(one: Pixels, other: Pixels) -> float:
    return float(np.abs(one.astype(float) - other).mean())


def test_a_file_is_read_as_it_is(tmp_path: Path):
    (tmp_path / "image").write_bytes(PNG)
    assert read_file(tmp_path / "image") == PNG


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "No such file"),
        (Path.mkdir, "Is a directory"),
        (os.mkfifo, "Is a pipe, socket or device"),
        (lambda path: path.symlink_to("nowhere"), "No such file"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
        (lambda path: path.symlink_to("/proc/self/mem"), "Input/output error"),
    ],
    ids=["nothing", "folder", "pipe", "dangling link", "link to itself", "faulty file"],
)
def test_what_cannot_be_read_is_refused_with_the_reason(tmp_path: Path, make: Any, reason: str):
    make(tmp_path / "image")
    with pytest.raises(ImageRefusedError, match=f"cannot be read: {reason}"):
        read_file(tmp_path / "image")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"\xff\xd8\xff", "damaged or truncated"),
        (b"Dear radiologist,\n", "not a JPEG, PNG, TIFF, WEBP, BMP or DICOM file"),
        (b"\x00" * 1000, "not a JPEG, PNG, TIFF, WEBP, BMP or DICOM file"),
        (encode(GREY, "GIF"), "not a JPEG, PNG, TIFF, WEBP, BMP or DICOM file"),
        (JPEG[: len(JPEG) // 2], "damaged or truncated"),
        (PNG[: len(PNG) // 2], "damaged or truncated"),
        (PNG[:200] + bytes(100) + PNG[300:], "damaged or truncated"),
    ],
)
@pytest.mark.parametrize("read", [describe_image, lambda content: read_image(content, 16)])
def test_anything_but_a_whole_image_is_refused_with_the_reason(read: Any, content: bytes, reason: str):
    with pytest.raises(ImageRefusedError, match=reason):
        read(content)


@settings(derandomize=True, max_examples=80, deadline=None)
@given(
    image=st.sampled_from([JPEG, PNG, encode(GREY.convert("P")), encode(GREY, "JPEG", progressive=True)]),
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=20),
    kept=st.integers(1, 10_000),
)
def test_damage_does_nothing_worse_than_a_refusal(image: bytes, changes: list[tuple[int, int]], kept: int):
    damaged = bytearray(image)
    for place, value in changes:
        damaged[place % len(image)] = value
    try:
        assert read_image(bytes(damaged[:kept]), 16).shape == (16, 16)
    except ImageRefusedError as error:
        assert str(error)


def claim(side: int) -> bytes:
    """Return a PNG whose header states another size."""
    header = b"IHDR" + pack(">II", side, side) + PNG[24:29]
    return PNG[:12] + header + pack(">I", crc32(header)) + PNG[33:]


@pytest.mark.parametrize("side", [8_001, 10_000, 14_000])
def test_too_many_pixels_are_refused_before_decoding(side: int):
    with pytest.raises(ImageRefusedError, match=f"more than {MAX_PIXELS:,} pixels"):
        read_image(claim(side), 16)  # decoded, this would be called truncated


def test_an_image_beyond_pillows_own_limit_is_refused_without_its_warning(tmp_path: Path):
    (tmp_path / "bomb.png").write_bytes(claim(10_000))
    script = (
        "import sys; from pneumonia.images.decode import read_image; read_image(open(sys.argv[1], 'rb').read(), 16)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "bomb.png"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert "ImageRefusedError: more than 64,000,000 pixels" in done.stderr
    assert "Warning" not in done.stderr


def test_a_png_is_decoded_and_resized():
    assert np.array_equal(read_image(PNG, 64), resize(PLANE, 64))


@pytest.mark.parametrize(
    ("mode", "content", "tolerance"),
    [
        ("L", PNG, 0),
        ("RGB", encode(GREY.convert("RGB")), 0),
        ("RGB", encode(GREY.convert("RGB"), "JPEG", quality=95), 2),
        ("CMYK", encode(GREY.convert("CMYK"), "JPEG", quality=95), 2),
        ("P", encode(GREY.convert("P")), 0),
        ("I;16", encode(Image.fromarray(PLANE.astype(np.uint16) * 257)), 0),
        ("I;16", encode(Image.fromarray(PLANE.astype(np.uint16) * 256 + 255)), 1),
        ("RGBA", encode(GREY.convert("RGBA")), 0),
        ("LA", encode(GREY.convert("LA")), 0),
    ],
)
def test_every_way_to_store_grey_gives_the_same_grey(mode: str, content: bytes, tolerance: float):
    assert describe_image(content).mode == mode
    assert distance(read_image(content, 64), resize(PLANE, 64)) <= tolerance


@pytest.mark.parametrize(
    "content",
    [
        encode(Image.merge("LA", (GREY, Image.new("L", GREY.size, 0)))),
        encode(Image.merge("RGBA", (GREY, GREY, GREY, Image.new("L", GREY.size, 0)))),
        encode(GREY.convert("P"), transparency=bytes(range(256))),
        encode(GREY.convert("P"), transparency=3),
        encode(GREY, transparency=3),
        encode(GREY.convert("RGB"), transparency=(60, 60, 60)),
    ],
)
def test_transparency_is_ignored(content: bytes):
    assert np.array_equal(read_image(content, 64), resize(PLANE, 64))


def test_one_bit_becomes_black_and_white():
    assert set(np.unique(read_image(encode(GREY.convert("1")), 512))) >= {0, 255}


def test_sixteen_bits_keep_black_and_white():
    ends = Image.fromarray(np.array([[0, 65535]], np.uint16))
    assert read_image(encode(ends), 2)[0].tolist() == [0, 255]


@pytest.mark.parametrize("factor", [2, 3, 5, 8])
def test_reduced_decoding_equals_full_decoding_within_one_and_a_half_grey_values(factor: int):
    image = draw_image(80 * factor, 65 * factor)
    content = encode(image, "JPEG", quality=90)
    with Image.open(BytesIO(content)) as opened:
        full = np.asarray(opened.convert("L"))
    assert distance(read_image(content, 64), resize(full, 64)) < 1.5


@pytest.mark.parametrize("content", [JPEG, PNG, encode(draw_image(1000, 750), "JPEG")])
@pytest.mark.parametrize("size", [1, 32, 224])
def test_the_result_is_a_square_of_bytes(content: bytes, size: int):
    pixels = read_image(content, size)
    assert (pixels.shape, pixels.dtype) == ((size, size), np.uint8)


@pytest.mark.parametrize("content", [JPEG, PNG])
def test_the_same_bytes_give_the_same_pixels(content: bytes):
    assert np.array_equal(read_image(content, 50), read_image(content, 50))


@pytest.mark.parametrize(("width", "height"), [(1300, 900), (70, 300)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_description_gives_the_files_own_size_not_the_decoded_one(width: int, height: int, kind: str):
    image = describe_image(encode(draw_image(width, height), kind))
    assert (image.width, image.height) == (width, height)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("grey", [0, 127, 255])
def test_a_blank_image_has_no_contrast(kind: str, grey: int):
    assert describe_image(encode(Image.new("L", (300, 200), grey), kind)).contrast == pytest.approx(0, abs=0.5)


def test_contrast_is_the_standard_deviation_of_the_grey_values():
    assert describe_image(PNG).contrast == pytest.approx(PLANE.std())
    half = np.zeros((100, 100), np.uint8)
    half[50:] = 255
    assert describe_image(encode(Image.fromarray(half))).contrast == 127.5
