"""Only training films are altered, as many as are missing and no more than allowed."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pneumonia.augment import Split, alter, balance, build_dataset, read_split, write_dataset
from pneumonia.images import Pixels, read_film
from pneumonia.params import AugmentParams
from pneumonia.records import CLASSES

STILL = AugmentParams(
    balance="augment", rotation_degrees=0, horizontal_flip=False, brightness=(1, 1), shift=0, seed=123
)
USUAL = STILL.model_copy(
    update={"rotation_degrees": 0.3, "horizontal_flip": True, "brightness": (0.9, 1.1), "shift": 0.05}
)
MODES: tuple[Any, ...] = ("augment", "undersample", "class_weight", "none")


def change(params: AugmentParams, **values: Any) -> AugmentParams:
    return AugmentParams.model_validate(params.model_dump() | values)


def draw_images(count: int, side: int = 16, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side), np.uint8)


def make_split(normal: int, pneumonia: int, side: int = 4) -> Split:
    count = normal + pneumonia
    labels = np.repeat(np.array([0, 1], np.uint8), [normal, pneumonia])
    paths = np.array([f"train/film{row:05}" for row in range(count)])
    return Split(draw_images(count, side), labels, paths, np.zeros(count, bool))


def make_dot(side: int, row: int, column: int) -> Pixels:
    image = np.zeros((side, side), np.uint8)
    image[row - 1 : row + 2, column - 1 : column + 2] = 200
    return image


def find_centres(images: Pixels) -> Any:
    """Return the centre of brightness of each image from the middle, in pixels down and to the right, (n, 2)."""
    grid = np.indices(images.shape[1:]) - (images.shape[1] - 1) / 2
    weight = images.astype(float).sum(axis=(1, 2))
    return np.stack([(images * axis).sum(axis=(1, 2)) / weight for axis in grid], axis=1)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    raw = tmp_path_factory.mktemp("raw")
    for film, plane in zip(make_records()["path"], draw_images(32, 8), strict=True):
        (raw / film).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(plane).save(raw / film)
    return raw


def make_records() -> pd.DataFrame:
    """Return 32 films: of the 20 for training 5 are normal, of val's and of test's 6 each 2."""
    splits = ["train"] * 20 + ["val"] * 6 + ["test"] * 6
    labels = [CLASSES[row >= normal] for films, normal in ((20, 5), (6, 2), (6, 2)) for row in range(films)]
    return pd.DataFrame({"path": [f"all/film{row}.png" for row in range(32)], "label": labels, "split": splits})


def test_a_split_holds_what_the_door_for_pixels_gives_in_the_order_of_the_table(raw: Path):
    split = read_split(make_records(), raw, 8)
    assert split.paths.tolist() == make_records()["path"].tolist()
    assert [CLASSES[label] for label in split.labels] == make_records()["label"].tolist()
    for image, path in zip(split.images, split.paths, strict=True):
        assert np.array_equal(image, read_film((raw / path).read_bytes(), 8))


@settings(derandomize=True, max_examples=12, deadline=None)
@given(mode=st.sampled_from(MODES), seed=st.integers(0, 1000))
def test_val_and_test_hold_their_own_films_unaltered_however_training_is_balanced(raw: Path, mode: str, seed: int):
    records = make_records()
    dataset = build_dataset(records, raw, 8, change(USUAL, balance=mode, seed=seed))
    for name, split in (("val", dataset.val), ("test", dataset.test)):
        assert not split.augmented.any()
        assert sorted(split.paths) == sorted(records.loc[records["split"] == name, "path"])
        for image, path in zip(split.images, split.paths, strict=True):
            assert np.array_equal(image, read_film((raw / path).read_bytes(), 8))


@settings(derandomize=True, max_examples=20, deadline=None)
@given(normal=st.integers(1, 20), pneumonia=st.integers(1, 60), seed=st.integers(0, 1000))
def test_augmenting_adds_as_many_altered_minority_films_as_are_missing(normal: int, pneumonia: int, seed: int):
    train = make_split(normal, pneumonia)
    balanced = balance(train, change(USUAL, seed=seed))
    added = balanced.take(np.flatnonzero(balanced.augmented))
    assert np.bincount(balanced.labels).tolist() == [max(normal, pneumonia)] * 2
    assert len(added.labels) == abs(pneumonia - normal)
    minority = set(train.paths[train.labels == (normal > pneumonia)])
    assert set(added.paths) <= minority
    assert set(added.labels) <= {int(normal > pneumonia)}


@settings(derandomize=True, max_examples=20, deadline=None)
@given(normal=st.integers(1, 12), pneumonia=st.integers(13, 60), seed=st.integers(0, 1000))
def test_no_film_is_altered_twice_before_every_other_was_once(normal: int, pneumonia: int, seed: int):
    balanced = balance(make_split(normal, pneumonia), change(USUAL, seed=seed))
    times = [int((balanced.paths[balanced.augmented] == path).sum()) for path in balanced.paths[:normal]]
    assert max(times) - min(times) <= 1


def test_the_films_that_were_there_stay_as_they_are():
    train = make_split(5, 12)
    balanced = balance(train, USUAL)
    for before, after in zip(vars(train).values(), vars(balanced).values(), strict=True):
        assert np.array_equal(before, after[:17])


def test_kaggles_training_films_become_3418_of_each_class():
    balanced = balance(make_split(1266, 3418), USUAL)
    assert np.bincount(balanced.labels).tolist() == [3418, 3418]
    assert balanced.augmented.sum() == 2152


def test_undersampling_keeps_the_whole_minority_and_as_many_of_the_others():
    train = make_split(40, 60)
    kept = balance(train, change(USUAL, balance="undersample"))
    assert np.bincount(kept.labels).tolist() == [40, 40]
    assert set(train.paths[:40]) <= set(kept.paths) <= set(train.paths)
    assert len(set(kept.paths)) == 80
    assert not kept.augmented.any()


@pytest.mark.parametrize("mode", ["class_weight", "none"])
def test_the_other_modes_leave_the_training_films_alone(mode: str):
    train = make_split(5, 12)
    assert balance(train, change(USUAL, balance=mode)) is train


def test_class_weights_make_both_classes_weigh_the_same(raw: Path):
    dataset = build_dataset(make_records(), raw, 4, change(USUAL, balance="class_weight"))
    assert dataset.class_weight == pytest.approx({0: 20 / (2 * 5), 1: 20 / (2 * 15)})


@pytest.mark.parametrize("mode", ["augment", "undersample", "none"])
def test_without_them_all_films_weigh_one(raw: Path, mode: str):
    assert build_dataset(make_records(), raw, 4, change(USUAL, balance=mode)).class_weight == {0: 1, 1: 1}


def test_training_films_are_shuffled_with_everything_that_belongs_to_them(raw: Path):
    train = build_dataset(make_records(), raw, 8, change(USUAL, balance="none")).train
    labels = make_records().set_index("path")["label"]
    assert train.paths.tolist() != make_records()["path"][:20].tolist()
    assert [CLASSES[label] for label in train.labels] == labels[train.paths.tolist()].tolist()
    assert np.array_equal(train.images[7], read_film((raw / train.paths[7]).read_bytes(), 8))


@settings(derandomize=True, max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), side=st.integers(1, 20), count=st.integers(1, 4))
def test_an_alteration_without_range_changes_nothing(seed: int, side: int, count: int):
    images = draw_images(count, side, seed)
    assert np.array_equal(alter(images, change(STILL, seed=seed)), images)


def test_a_flip_is_a_mirror_image_and_comes_every_other_time():
    images = draw_images(200)
    flipped = alter(images, change(STILL, horizontal_flip=True))
    mirrored = (flipped == images[:, :, ::-1]).all(axis=(1, 2))
    assert (mirrored | (flipped == images).all(axis=(1, 2))).all()
    assert mirrored.mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("factor", [0.5, 1.3, 2.0])
def test_brightness_multiplies_and_stops_at_white(factor: float):
    images = draw_images(3)
    expected = np.clip(np.rint(images * np.float32(factor)), 0, 255)
    assert np.array_equal(alter(images, change(STILL, brightness=(factor, factor))), expected)


def test_brightness_fills_its_range_and_never_leaves_it():
    greys = alter(np.full((200, 4, 4), 100, np.uint8), change(STILL, brightness=(0.8, 1.1)))[:, 0, 0]
    assert (greys.min(), greys.max()) == (pytest.approx(80, abs=1), pytest.approx(110, abs=1))
    assert greys.min() >= 80
    assert greys.max() <= 110


def test_a_shift_fills_its_share_both_ways_and_never_exceeds_it():
    centres = find_centres(alter(np.tile(make_dot(41, 20, 20), (300, 1, 1)), change(STILL, shift=0.2)))
    limit = 0.2 * 41
    assert np.abs(centres).max() <= limit + 0.05  # rounding to whole greys
    assert np.allclose(centres.max(axis=0), limit, atol=0.3)
    assert np.allclose(centres.min(axis=0), -limit, atol=0.3)


def test_a_rotation_fills_its_range_and_keeps_the_distance_from_the_middle():
    centres = find_centres(alter(np.tile(make_dot(81, 40, 65), (300, 1, 1)), change(STILL, rotation_degrees=30)))
    angles = np.rad2deg(np.arctan2(centres[:, 0], centres[:, 1]))
    assert np.allclose(np.hypot(*centres.T), 25, atol=0.1)
    assert np.abs(angles).max() <= 30.2
    assert (angles.min(), angles.max()) == (pytest.approx(-30, abs=1), pytest.approx(30, abs=1))


def test_what_comes_from_outside_repeats_the_edge():
    blank = np.full((20, 16, 16), 77, np.uint8)
    assert np.array_equal(alter(blank, change(STILL, shift=0.5, rotation_degrees=90)), blank)


def test_an_altered_image_depends_on_the_seed_and_its_number_only():
    images = draw_images(5)
    one = alter(images, USUAL)
    among_others = alter(np.concatenate([images[:3], draw_images(9, seed=1)]), USUAL)
    assert np.array_equal(one[:3], among_others[:3])
    assert not np.array_equal(one, alter(images, change(USUAL, seed=124)))


@pytest.mark.parametrize("side", [1, 5, 32])
def test_shape_and_type_stay(side: int):
    altered = alter(draw_images(3, side), USUAL)
    assert (altered.shape, altered.dtype) == ((3, side, side), np.uint8)


@pytest.mark.parametrize("mode", MODES)
def test_the_same_seed_builds_the_same_bytes_and_another_seed_others(raw: Path, tmp_path: Path, mode: str):
    params = change(USUAL, balance=mode)
    written = []
    for chosen in (params, params, change(params, seed=7)):
        write_dataset(build_dataset(make_records(), raw, 8, chosen), tmp_path / "dataset.pkl")
        written.append((tmp_path / "dataset.pkl").read_bytes())
    assert written[0] == written[1]
    assert written[0] != written[2]
