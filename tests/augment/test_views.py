"""A view is the image moved and lit within the ranges of its parameters, and nothing else."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pneumonia.augment.views import draw_view
from pneumonia.core.dataset import Pixels
from pneumonia.core.params import AugmentParams
from pneumonia.core.params_file import load_params

NOTHING: dict[str, Any] = {
    "horizontal_flip": False, "affine_probability": 1.0, "rotation_degrees": 0.0, "zoom": (1, 1), "shift": 0.0,
    "warp": 0.0, "crop": 1.0, "lighting_probability": 1.0, "brightness": (1, 1), "contrast": (1, 1),
}  # fmt: skip
EVERYTHING: dict[str, Any] = {
    "horizontal_flip": True, "rotation_degrees": 10.0, "zoom": (1.0, 1.1), "shift": 0.1, "warp": 0.2, "crop": 0.4,
    "brightness": (0.8, 1.2), "contrast": (0.8, 1.25),
}  # fmt: skip


def change(**values: Any) -> AugmentParams:
    """Return parameters that alter nothing but what is given."""
    return AugmentParams.model_validate(load_params().augment.model_dump() | NOTHING | values)


def draw(image: Pixels, params: AugmentParams, count: int = 1, size: int | None = None) -> Pixels:
    """Return `count` views of an image, each with its own seed."""
    return np.stack([draw_view(image, size or len(image), np.random.default_rng(n), params) for n in range(count)])


def make_image(side: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (side, side), np.uint8)


def make_smooth(side: int) -> Pixels:
    """Return an image without fine detail, which interpolation hardly changes."""
    at = np.linspace(0, 3, side)
    return np.rint(120 + 60 * np.sin(at)[:, None] + 50 * np.cos(2 * at)[None, :]).astype(np.uint8)


def make_dot(side: int, row: int, column: int) -> Pixels:
    image = np.zeros((side, side), np.uint8)
    image[row - 1 : row + 2, column - 1 : column + 2] = 200
    return image


def find_centres(images: Pixels) -> Any:
    """Return each image's centre of brightness, in pixels down and right of the middle, shape (n, 2)."""
    grid = np.indices(images.shape[1:]) - (images.shape[1] - 1) / 2
    weight = images.astype(float).sum(axis=(1, 2))
    return np.stack([(images * axis).sum(axis=(1, 2)) / weight for axis in grid], axis=1)


@settings(derandomize=True, max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), side=st.integers(1, 40))
def test_without_ranges_nothing_changes(seed: int, side: int):
    image = make_image(side, seed)
    assert np.array_equal(draw(image, change())[0], image)


@pytest.mark.parametrize("what", ["affine", "lighting"])
def test_with_probability_zero_nothing_changes(what: str):
    kept = {"affine": ("brightness", "contrast"), "lighting": ("rotation_degrees", "zoom", "shift", "warp", "crop")}
    ranges = {name: value for name, value in EVERYTHING.items() if name not in (*kept[what], "horizontal_flip")}
    image = make_image(32)
    assert (draw(image, change(**ranges, **{f"{what}_probability": 0.0}), count=20) == image).all()


@pytest.mark.parametrize("what", ["affine", "lighting"])
def test_a_probability_is_the_share_of_views_that_change(what: str):
    image = make_image(16)
    ranges = {"affine": {"shift": 0.2}, "lighting": {"brightness": (0.5, 0.9)}}[what]
    changed = (draw(image, change(**ranges, **{f"{what}_probability": 0.75}), count=400) != image).any(axis=(1, 2))
    assert changed.mean() == pytest.approx(0.75, abs=0.06)


def test_a_flip_mirrors_the_image_in_half_of_the_views():
    image = make_image(16)
    views = draw(image, change(horizontal_flip=True), count=200)
    mirrored = (views == image[:, ::-1]).all(axis=(1, 2))
    assert (mirrored | (views == image).all(axis=(1, 2))).all()
    assert mirrored.mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("factor", [0.5, 1.3, 2.0])
def test_brightness_multiplies_and_clips_at_white(factor: float):
    image = make_image(16)
    expected = np.clip(np.rint(image * np.float32(factor)), 0, 255)
    assert np.array_equal(draw(image, change(brightness=(factor, factor)))[0], expected)


@pytest.mark.parametrize("factor", [0.5, 1.3])
def test_contrast_stretches_around_the_mean(factor: float):
    image = make_image(64) // 4 + 96
    view = draw(image, change(contrast=(factor, factor)))[0].astype(float)
    assert view.mean() == pytest.approx(image.mean(), abs=0.1)
    assert view.std() == pytest.approx(factor * image.std(), rel=0.01)


def test_brightness_fills_its_range_and_never_leaves_it():
    greys = draw(np.full((4, 4), 100, np.uint8), change(brightness=(0.8, 1.1)), count=200)[:, 0, 0]
    assert (greys.min(), greys.max()) == (pytest.approx(80, abs=1), pytest.approx(110, abs=1))
    assert greys.min() >= 80
    assert greys.max() <= 110


def test_a_shift_fills_its_range_both_ways_and_never_exceeds_it():
    centres = find_centres(draw(make_dot(41, 20, 20), change(shift=0.2), count=300))
    limit = 0.2 * 41
    assert np.abs(centres).max() <= limit + 0.05  # rounding to whole greys
    assert np.allclose(centres.max(axis=0), limit, atol=0.3)
    assert np.allclose(centres.min(axis=0), -limit, atol=0.3)


def test_a_rotation_fills_its_range_and_keeps_distances_from_the_middle():
    centres = find_centres(draw(make_dot(81, 40, 65), change(rotation_degrees=30), count=300))
    angles = np.rad2deg(np.arctan2(centres[:, 0], centres[:, 1]))
    assert np.allclose(np.hypot(*centres.T), 25, atol=0.1)
    assert np.abs(angles).max() <= 30.2
    assert (angles.min(), angles.max()) == (pytest.approx(-30, abs=1), pytest.approx(30, abs=1))


def test_a_zoom_enlarges_around_the_middle():
    centres = find_centres(draw(make_dot(81, 40, 50), change(zoom=(1.5, 1.5))))
    assert np.allclose(centres[0], [0, 15], atol=0.1)


def test_a_warp_moves_the_edges_by_its_share_and_not_the_middle():
    params = change(warp=0.2)
    assert np.allclose(find_centres(draw(make_dot(81, 40, 40), params, count=100)), 0, atol=0.1)
    moved = find_centres(draw(make_dot(81, 40, 60), params, count=300))[:, 1]
    assert (moved.min(), moved.max()) == (pytest.approx(20 / 1.1, abs=0.4), pytest.approx(20 / 0.9, abs=0.4))


def test_a_crop_keeps_at_least_its_share_of_the_area_and_stays_inside():
    at = np.linspace(0, 255, 64)
    down, right = (np.rint(plane).astype(np.uint8) for plane in np.meshgrid(at, at, indexing="ij"))
    params = change(crop=0.4)
    for number in range(100):
        rows, columns = (draw_view(ramp, 64, np.random.default_rng(number), params) for ramp in (down, right))
        height, width = (np.ptp(rows.astype(float)) / 255, np.ptp(columns.astype(float)) / 255)
        assert height * width >= 0.4 * 0.97  # from pixel centre to pixel centre
        assert np.all(np.diff(rows.astype(int), axis=0) >= 0)  # nothing is mirrored in from outside


def test_beyond_its_edges_the_image_is_mirrored():
    image = make_image(16)
    views = draw(image, change(shift=0.3), count=30)
    assert all(view.min() >= image.min() and view.max() <= image.max() for view in views)
    assert (draw(np.full((16, 16), 77, np.uint8), change(shift=0.5, rotation_degrees=90), count=20) == 77).all()


def test_a_view_of_a_larger_image_is_the_image_at_the_views_size():
    image = make_smooth(460)
    expected = image.reshape(230, 2, 230, 2).mean(axis=(1, 3))
    assert np.abs(draw(image, change(), size=230)[0] - expected).max() <= 1


@settings(derandomize=True, max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_same_seed_draws_the_same_view_and_another_seed_another(seed: int):
    image, params = make_image(32), change(**EVERYTHING)
    one, same, other = (draw_view(image, 24, np.random.default_rng(s), params) for s in (seed, seed, seed + 1))
    assert (one.shape, one.dtype) == ((24, 24), np.uint8)
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
