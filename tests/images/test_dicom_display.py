"""A DICOM image is shown as its header says: tables, windows, padding and inversion."""

from typing import Any

import numpy as np
import pytest
from dicoms import IMAGE, NARROW, encode, make_lut
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng
from scipy.special import expit

from pneumonia.images.dicom import read_dicom


def show(stored: list[int], **attributes: Any) -> list[int]:
    """Return the grey values of an image of one row, stored as signed 16 bits."""
    pixels = read_dicom(encode(np.array([stored], np.int16), **attributes)).grey
    return pixels[0].tolist()


@pytest.mark.parametrize(
    ("photometric", "shape", "inverted"),
    [
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME1", "IDENTITY", True),
        ("MONOCHROME1", "INVERSE", True),  # as digital X-ray writes it
    ],
)
def test_an_image_is_inverted_once_or_not_at_all(photometric: str, shape: str, inverted: bool):
    content = encode(IMAGE, PhotometricInterpretation=photometric, PresentationLUTShape=shape, **NARROW)
    assert np.array_equal(read_dicom(content)[0], 255 - IMAGE if inverted else IMAGE)


@settings(derandomize=True, max_examples=40, deadline=None)
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


def test_the_first_of_several_windows_counts():
    assert show([0, 50, 100], WindowCenter=[50.5, 500], WindowWidth=[101, 7]) == [0, 128, 255]


@pytest.mark.parametrize(("bits", "top"), [(8, 255), (10, 1023), (12, 4095), (16, 65535)])
@pytest.mark.parametrize("rescale", [{}, {"RescaleSlope": 3, "RescaleIntercept": 1}])
def test_values_beyond_a_voi_lut_take_its_first_or_last_entry(bits: int, top: int, rescale: dict[str, Any]):
    curve = [round(top * (place / 999) ** 2) for place in range(1000)]
    stored = [-30000, -101, -100, 0, 300, 899, 900, 21845, 30000]  # 21845 * 3 + 1 would wrap to 0
    places = [np.clip((3 * x + 1 if rescale else x) + 100, 0, 999) for x in stored]
    shown = show(stored, VOILUTSequence=[make_lut(curve, -100, bits)], **rescale)
    assert shown == [round(255 * curve[place] / top) for place in places]


def test_a_voi_lut_may_have_an_entry_for_every_sixteen_bit_value():
    lut = make_lut([0], 0, 16)
    lut.LUTDescriptor = [0, 0, 16]  # 65,536 does not fit into 16 bits
    lut["LUTData"].VR, lut["LUTData"].value = "OW", np.arange(65536)[::-1].astype("<u2").tobytes()
    stored = np.array([[0, 257, 65535]], np.uint16)
    assert read_dicom(encode(stored, VOILUTSequence=[lut]))[0].tolist() == [[255, 254, 0]]


def test_a_value_between_two_entries_of_a_voi_lut_takes_the_nearer_one():
    lut = make_lut([0, 65535], 0, 16)
    assert show([0, 1, 4, 6, 9], VOILUTSequence=[lut], RescaleSlope=0.1, RescaleIntercept=0) == [0, 0, 0, 255, 255]


def test_the_first_voi_lut_takes_precedence_over_a_window():
    luts = [make_lut([0, 65535], 0, 16), make_lut([0, 0], 0, 16)]
    assert show([0, 1], VOILUTSequence=luts, WindowCenter=500, WindowWidth=2) == [0, 255]


def test_a_modality_lut_is_applied_before_the_window():
    lut = make_lut([4000, 2000, 0], 5, 16)
    assert show([5, 6, 7], ModalityLUTSequence=[lut], WindowCenter=2000.5, WindowWidth=4001) == [255, 128, 0]


def test_without_a_window_the_lowest_value_is_black_and_the_highest_white():
    assert show([-300, -100, 100, 700]) == [0, 51, 102, 255]


@pytest.mark.parametrize("limits", [{"PixelPaddingValue": 9}, {"PixelPaddingValue": 9, "PixelPaddingRangeLimit": 7}])
def test_padding_counts_neither_as_lowest_nor_as_highest_value(limits: dict[str, int]):
    assert show([9, 9, 100, 150, 200], **limits) == [0, 0, 0, 128, 255]


def test_padding_may_lie_below_black_after_a_modality_lut():
    lut = make_lut([7, 100, 150, 200], 0, 16)
    assert show([0, 1, 2, 3], ModalityLUTSequence=[lut], PixelPaddingValue=0) == [0, 0, 128, 255]


@pytest.mark.parametrize("limits", [(-2000, -2000), (-2000, -1990), (-1990, -2000)])
def test_padding_may_be_a_range_given_from_either_end(limits: tuple[int, int]):
    value, limit = limits
    seen = sorted(set(limits))
    assert show([*seen, 0, 100], PixelPaddingValue=value, PixelPaddingRangeLimit=limit) == [0] * len(seen) + [0, 255]


def test_with_a_window_padding_is_shown_like_any_other_value():
    assert show([0, 255], PixelPaddingValue=255, **NARROW) == [0, 255]


@settings(derandomize=True, max_examples=20, deadline=None)
@given(dtype=st.sampled_from([np.uint8, np.int8, np.uint16, np.int16]), seed=st.integers(0, 99), window=st.booleans())
def test_a_higher_value_is_never_darker(dtype: Any, seed: int, window: bool):
    limits = np.iinfo(dtype)
    stored = np.sort(default_rng(seed).integers(limits.min, limits.max, (1, 300), dtype, endpoint=True))
    pixels = read_dicom(encode(stored, **(NARROW if window else {}))).grey
    assert (np.diff(pixels[0].astype(int)) >= 0).all()
    assert window or (pixels.min(), pixels.max()) == (0, 255)
