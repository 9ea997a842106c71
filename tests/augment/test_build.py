"""Only training images are altered, as many as are missing and no more than allowed."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pneumonia.augment.balance import balance
from pneumonia.augment.build import build_dataset, read_split, seed_view
from pneumonia.augment.views import draw_view
from pneumonia.core.dataset import Pixels, write_dataset
from pneumonia.core.params import AugmentParams
from pneumonia.core.params_file import load_params
from pneumonia.core.tables import CLASSES
from pneumonia.images.decode import read_image

USUAL = load_params().augment
MODES: tuple[Any, ...] = ("augment", "undersample", "class_weight", "none")


def change(params: AugmentParams, **values: Any) -> AugmentParams:
    return AugmentParams.model_validate(params.model_dump() | values)


def draw_images(count: int, side: int = 16, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side), np.uint8)


def make_train(normal: int, pneumonia: int) -> pd.DataFrame:
    paths = [f"train/image{row:05}" for row in range(normal + pneumonia)]
    return pd.DataFrame({"path": paths, "label": np.repeat(CLASSES, [normal, pneumonia])})


def count(table: pd.DataFrame) -> list[int]:
    return [int((table["label"] == label).sum()) for label in CLASSES]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    raw = tmp_path_factory.mktemp("raw")
    for image, plane in zip(make_records()["path"], draw_images(32, 8), strict=True):
        (raw / image).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(plane).save(raw / image)
    return raw


def make_records() -> pd.DataFrame:
    """Return 32 images: of the 20 for training 5 are normal, of val's and of test's 6 each 2."""
    splits = ["train"] * 20 + ["val"] * 6 + ["test"] * 6
    labels = [CLASSES[row >= normal] for images, normal in ((20, 5), (6, 2), (6, 2)) for row in range(images)]
    return pd.DataFrame({"path": [f"all/image{row}.png" for row in range(32)], "label": labels, "split": splits})


def test_a_split_holds_what_the_door_for_pixels_gives_in_the_order_of_the_table(raw: Path):
    split = read_split(make_records(), raw, 8)
    assert split.paths.tolist() == make_records()["path"].tolist()
    assert [CLASSES[label] for label in split.labels] == make_records()["label"].tolist()
    for image, path in zip(split.images, split.paths, strict=True):
        assert np.array_equal(image, read_image((raw / path).read_bytes(), 8))


@settings(derandomize=True, max_examples=12, deadline=None)
@given(mode=st.sampled_from(MODES), seed=st.integers(0, 1000))
def test_val_and_test_hold_their_own_images_unaltered_however_training_is_balanced(raw: Path, mode: str, seed: int):
    records = make_records()
    dataset = build_dataset(records, raw, 8, change(USUAL, balance=mode, seed=seed))
    for name, split in (("val", dataset.val), ("test", dataset.test)):
        assert not split.augmented.any()
        assert sorted(split.paths) == sorted(records.loc[records["split"] == name, "path"])
        for image, path in zip(split.images, split.paths, strict=True):
            assert np.array_equal(image, read_image((raw / path).read_bytes(), 8))


@settings(derandomize=True, max_examples=20, deadline=None)
@given(normal=st.integers(1, 20), pneumonia=st.integers(1, 60), seed=st.integers(0, 1000))
def test_augmenting_adds_as_many_altered_minority_images_as_are_missing(normal: int, pneumonia: int, seed: int):
    train = make_train(normal, pneumonia)
    balanced = balance(train, change(USUAL, seed=seed))
    added = balanced[balanced["augmented"]]
    assert count(balanced) == [max(normal, pneumonia)] * 2
    assert len(added) == abs(pneumonia - normal)
    assert set(added["label"]) <= {CLASSES[normal > pneumonia]}
    assert set(added["path"]) <= set(train["path"][train["label"] == CLASSES[normal > pneumonia]])


@settings(derandomize=True, max_examples=20, deadline=None)
@given(normal=st.integers(1, 12), pneumonia=st.integers(13, 60), seed=st.integers(0, 1000))
def test_no_image_is_altered_twice_before_every_other_was_once(normal: int, pneumonia: int, seed: int):
    balanced = balance(make_train(normal, pneumonia), change(USUAL, seed=seed))
    added = balanced[balanced["augmented"]]["path"].value_counts()
    times = [int(added.get(path, 0)) for path in balanced["path"][:normal]]
    assert max(times) - min(times) <= 1


def test_the_images_that_were_there_stay_as_they_are():
    train = make_train(5, 12)
    pd.testing.assert_frame_equal(balance(train, USUAL)[:17], train.assign(augmented=False))


def test_kaggles_training_images_become_3418_of_each_class():
    balanced = balance(make_train(1266, 3418), USUAL)
    assert count(balanced) == [3418, 3418]
    assert balanced["augmented"].sum() == 2152


def test_undersampling_keeps_the_whole_minority_and_as_many_of_the_others():
    train = make_train(40, 60)
    kept = balance(train, change(USUAL, balance="undersample"))
    assert count(kept) == [40, 40]
    assert set(train["path"][:40]) <= set(kept["path"]) <= set(train["path"])
    assert kept["path"].is_unique
    assert not kept["augmented"].any()


@pytest.mark.parametrize("mode", ["class_weight", "none"])
def test_the_other_modes_leave_the_training_images_alone(mode: str):
    train = make_train(5, 12)
    pd.testing.assert_frame_equal(balance(train, change(USUAL, balance=mode)), train.assign(augmented=False))


def test_class_weights_make_both_classes_weigh_the_same(raw: Path):
    dataset = build_dataset(make_records(), raw, 4, change(USUAL, balance="class_weight"))
    assert dataset.class_weight == pytest.approx({0: 20 / (2 * 5), 1: 20 / (2 * 15)})


@pytest.mark.parametrize("mode", ["augment", "undersample", "none"])
def test_without_them_all_images_weigh_one(raw: Path, mode: str):
    assert build_dataset(make_records(), raw, 4, change(USUAL, balance=mode)).class_weight == {0: 1, 1: 1}


def test_training_images_are_shuffled_with_everything_that_belongs_to_them(raw: Path):
    train = build_dataset(make_records(), raw, 8, change(USUAL, balance="none")).train
    labels = make_records().set_index("path")["label"]
    assert train.paths.tolist() != make_records()["path"][:20].tolist()
    assert [CLASSES[label] for label in train.labels] == labels[train.paths.tolist()].tolist()
    assert np.array_equal(train.images[7], read_image((raw / train.paths[7]).read_bytes(), 8))


def test_every_image_has_its_variants_one_after_the_other_the_image_itself_first(raw: Path):
    train = build_dataset(make_records(), raw, 8, change(USUAL, views=3)).train
    assert (train.views, len(train.images), len(train.labels)) == (3, 90, 30)
    for row, path in enumerate(train.paths):
        as_it_is = np.array_equal(train.images[3 * row], read_image((raw / path).read_bytes(), 8))
        assert as_it_is != train.augmented[row]
        assert len(np.unique(train.images[3 * row : 3 * row + 3], axis=0)) == 3


def test_val_and_test_have_no_variants(raw: Path):
    dataset = build_dataset(make_records(), raw, 8, change(USUAL, views=3))
    assert (dataset.val.views, dataset.test.views) == (1, 1)


def test_more_variants_leave_those_that_were_there_as_they_are(raw: Path):
    few, many = (build_dataset(make_records(), raw, 8, change(USUAL, views=k)).train.images for k in (2, 5))
    assert np.array_equal(few.reshape(-1, 2, 8, 8), many.reshape(-1, 5, 8, 8)[:, :2])


def test_variants_are_drawn_from_the_presized_image(raw: Path):
    params = change(USUAL, views=2, presize=32)
    train = build_dataset(make_records(), raw, 8, params).train
    image = read_image((raw / train.paths[4]).read_bytes(), 32)
    assert np.array_equal(train.images[9], draw_view(image, 8, seed_view(params, 4, 1), params))


@pytest.mark.parametrize("mode", MODES)
def test_the_same_seed_builds_the_same_bytes_and_another_seed_others(raw: Path, tmp_path: Path, mode: str):
    params = change(USUAL, balance=mode)
    written = []
    for chosen in (params, params, change(params, seed=7)):
        write_dataset(build_dataset(make_records(), raw, 8, chosen), tmp_path / "dataset.pkl")
        written.append((tmp_path / "dataset.pkl").read_bytes())
    assert written[0] == written[1]
    assert written[0] != written[2]
