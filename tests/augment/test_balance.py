"""Balancing makes the classes equally large and treats the images of a class alike."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pneumonia.augment.balance import balance
from pneumonia.core.names import CLASSES
from pneumonia.core.params import AugmentParams
from pneumonia.core.params_file import load_params

USUAL = load_params().augment


def change(params: AugmentParams, **values: Any) -> AugmentParams:
    return AugmentParams.model_validate(params.model_dump() | values)


def make_train(normal: int, pneumonia: int) -> pd.DataFrame:
    paths = [f"train/image{row:05}" for row in range(normal + pneumonia)]
    return pd.DataFrame({"path": paths, "label": np.repeat(CLASSES, [normal, pneumonia])})


def count(table: pd.DataFrame) -> list[int]:
    return [int((table["label"] == label).sum()) for label in CLASSES]


@settings(derandomize=True, max_examples=20, deadline=None)
@given(normal=st.integers(1, 20), pneumonia=st.integers(1, 60), seed=st.integers(0, 1000))
def test_augmenting_adds_altered_images_of_the_minority_until_the_classes_are_equal(
    normal: int, pneumonia: int, seed: int
):
    train = make_train(normal, pneumonia)
    balanced = balance(train, change(USUAL, seed=seed))
    added = balanced[balanced["augmented"]]
    assert count(balanced) == [max(normal, pneumonia)] * 2
    assert len(added) == abs(pneumonia - normal)
    assert set(added["label"]) <= {CLASSES[normal > pneumonia]}
    assert set(added["path"]) <= set(train["path"][train["label"] == CLASSES[normal > pneumonia]])


@settings(derandomize=True, max_examples=20, deadline=None)
@given(normal=st.integers(1, 12), pneumonia=st.integers(13, 60), seed=st.integers(0, 1000))
def test_no_image_is_altered_twice_before_every_other_was_altered_once(normal: int, pneumonia: int, seed: int):
    balanced = balance(make_train(normal, pneumonia), change(USUAL, seed=seed))
    added = balanced[balanced["augmented"]]["path"].value_counts()
    times = [int(added.get(path, 0)) for path in balanced["path"][:normal]]
    assert max(times) - min(times) <= 1


def test_augmenting_keeps_all_images():
    train = make_train(5, 12)
    pd.testing.assert_frame_equal(balance(train, USUAL)[:17], train.assign(augmented=False))


def test_kaggles_training_images_become_3418_of_each_class():
    balanced = balance(make_train(1266, 3418), USUAL)
    assert count(balanced) == [3418, 3418]
    assert balanced["augmented"].sum() == 2152


def test_undersampling_keeps_the_minority_and_as_many_of_the_majority():
    train = make_train(40, 60)
    kept = balance(train, change(USUAL, balance="undersample"))
    assert count(kept) == [40, 40]
    assert set(train["path"][:40]) <= set(kept["path"]) <= set(train["path"])
    assert kept["path"].is_unique
    assert not kept["augmented"].any()


@pytest.mark.parametrize("mode", ["class_weight", "none"])
def test_the_other_modes_keep_the_training_images(mode: str):
    train = make_train(5, 12)
    pd.testing.assert_frame_equal(balance(train, change(USUAL, balance=mode)), train.assign(augmented=False))
