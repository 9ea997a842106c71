"""Only training images are altered, and every image is decoded as everywhere else."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pneumonia.augment.build import build_dataset, read_split, seed_view
from pneumonia.augment.views import draw_view
from pneumonia.core.dataset import Pixels, write_dataset
from pneumonia.core.names import CLASSES
from pneumonia.core.params import AugmentParams
from pneumonia.core.params_file import load_params
from pneumonia.images.decode import read_image

USUAL = load_params().augment
MODES: tuple[Any, ...] = ("augment", "undersample", "class_weight", "none")


def change(params: AugmentParams, **values: Any) -> AugmentParams:
    return AugmentParams.model_validate(params.model_dump() | values)


def draw_images(count: int, side: int = 16, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side), np.uint8)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    raw = tmp_path_factory.mktemp("raw")
    for image, plane in zip(make_records()["path"], draw_images(32, 8), strict=True):
        (raw / image).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(plane).save(raw / image)
    return raw


def make_records() -> pd.DataFrame:
    """Return 20 training images, 5 of them normal, and 6 each for val and test, 2 of them normal."""
    splits = ["train"] * 20 + ["val"] * 6 + ["test"] * 6
    labels = [CLASSES[row >= normal] for images, normal in ((20, 5), (6, 2), (6, 2)) for row in range(images)]
    return pd.DataFrame({"path": [f"all/image{row}.png" for row in range(32)], "label": labels, "split": splits})


def test_a_split_holds_the_decoded_images_in_the_order_of_the_table(raw: Path):
    split = read_split(make_records(), raw, 8)
    assert split.paths.tolist() == make_records()["path"].tolist()
    assert [CLASSES[label] for label in split.labels] == make_records()["label"].tolist()
    for image, path in zip(split.images, split.paths, strict=True):
        assert np.array_equal(image, read_image((raw / path).read_bytes(), 8))


@settings(derandomize=True, max_examples=12, deadline=None)
@given(mode=st.sampled_from(MODES), seed=st.integers(0, 1000))
def test_val_and_test_hold_their_images_unaltered_however_training_is_balanced(raw: Path, mode: str, seed: int):
    records = make_records()
    dataset = build_dataset(records, raw, 8, change(USUAL, balance=mode, seed=seed))
    for name, split in (("val", dataset.val), ("test", dataset.test)):
        assert not split.augmented.any()
        assert sorted(split.paths) == sorted(records.loc[records["split"] == name, "path"])
        for image, path in zip(split.images, split.paths, strict=True):
            assert np.array_equal(image, read_image((raw / path).read_bytes(), 8))


def test_class_weights_give_both_classes_the_same_total(raw: Path):
    dataset = build_dataset(make_records(), raw, 4, change(USUAL, balance="class_weight"))
    assert dataset.class_weight == pytest.approx({0: 20 / (2 * 5), 1: 20 / (2 * 15)})


@pytest.mark.parametrize("mode", ["augment", "undersample", "none"])
def test_in_the_other_modes_all_images_weigh_one(raw: Path, mode: str):
    assert build_dataset(make_records(), raw, 4, change(USUAL, balance=mode)).class_weight == {0: 1, 1: 1}


def test_training_images_are_shuffled_with_their_paths_and_labels(raw: Path):
    train = build_dataset(make_records(), raw, 8, change(USUAL, balance="none")).train
    labels = make_records().set_index("path")["label"]
    assert train.paths.tolist() != make_records()["path"][:20].tolist()
    assert [CLASSES[label] for label in train.labels] == labels[train.paths.tolist()].tolist()
    assert np.array_equal(train.images[7], read_image((raw / train.paths[7]).read_bytes(), 8))


def test_the_views_of_an_image_are_adjacent_and_the_first_is_the_image(raw: Path):
    train = build_dataset(make_records(), raw, 8, change(USUAL, views=3)).train
    assert (train.views, len(train.images), len(train.labels)) == (3, 90, 30)
    for row, path in enumerate(train.paths):
        as_it_is = np.array_equal(train.images[3 * row], read_image((raw / path).read_bytes(), 8))
        assert as_it_is != train.augmented[row]
        assert len(np.unique(train.images[3 * row : 3 * row + 3], axis=0)) == 3


def test_val_and_test_have_one_view(raw: Path):
    dataset = build_dataset(make_records(), raw, 8, change(USUAL, views=3))
    assert (dataset.val.views, dataset.test.views) == (1, 1)


def test_more_views_do_not_change_the_first_ones(raw: Path):
    few, many = (build_dataset(make_records(), raw, 8, change(USUAL, views=k)).train.images for k in (2, 5))
    assert np.array_equal(few.reshape(-1, 2, 8, 8), many.reshape(-1, 5, 8, 8)[:, :2])


def test_views_are_drawn_from_the_presized_image(raw: Path):
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
