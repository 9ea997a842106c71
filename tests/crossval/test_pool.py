"""A fold's data set is the augment stage's, but for variants that depend on the image and not on its place."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from crossvals import make_project

from pneumonia.augment.build import build_dataset
from pneumonia.core.names import SPLITS
from pneumonia.core.params import Params
from pneumonia.core.params_file import load_params
from pneumonia.core.tables import read_records
from pneumonia.crossval.folds import deal_folds
from pneumonia.crossval.pool import Pool, build_pool


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("pool"))


@pytest.fixture(scope="module")
def params(project: Path) -> Params:
    return load_params(project / "params.yaml")


def deal(project: Path, params: Params, folds: int) -> list[pd.DataFrame]:
    return deal_folds(read_records(project / "data" / "splits.csv"), folds, params.split, each_image=False)


def build(project: Path, params: Params, folds: int, **augment: Any) -> tuple[Pool, list[pd.DataFrame]]:
    dealt, changed = deal(project, params, folds), params.augment.model_copy(update=augment)
    return build_pool(dealt, project / "data" / "raw", 32, changed), dealt


@pytest.mark.parametrize("balance", ["augment", "undersample", "class_weight", "none"])
def test_a_fold_holds_what_the_augment_stage_would_build(project: Path, params: Params, balance: str) -> None:
    pool, dealt = build(project, params, 2, balance=balance, views=2)
    for fold in dealt:
        found, expected = pool.pick(fold), build_dataset(fold, project / "data" / "raw", 32, pool.params)
        assert found.class_weight == expected.class_weight
        for name in SPLITS:
            one, other = getattr(found, name), getattr(expected, name)
            assert (one.paths.tolist(), one.labels.tolist()) == (other.paths.tolist(), other.labels.tolist())
            assert (one.augmented.tolist(), one.views) == (other.augmented.tolist(), other.views)
            plain = np.repeat(~one.augmented, one.views) & (np.arange(len(one.images)) % one.views == 0)
            assert np.array_equal(one.images[plain], other.images[plain])


def test_a_variant_depends_on_the_image_the_copy_and_the_view_whatever_the_folds(project: Path, params: Params) -> None:
    (few, _), (many, _) = (build(project, params, folds, views=3) for folds in (2, 4))
    both = few.index.intersection(many.index)
    assert (both.get_level_values("copy") > 0).any()
    images = [
        pool.split.images.reshape(-1, 3, 32, 32)[pool.index.get_indexer(pd.MultiIndex.from_tuples(both))]
        for pool in (few, many)
    ]
    assert np.array_equal(images[0], images[1])
    assert len(np.unique(few.split.images, axis=0)) > 0.95 * len(few.split.images)


def test_every_image_is_there_once_and_every_copy_that_a_fold_trains_on(project: Path, params: Params) -> None:
    pool, dealt = build(project, params, 3)
    assert pool.index.is_unique
    assert pool.index.get_level_values("copy").to_series().eq(0).sum() == len(dealt[0])
    most = max(len(pool.pick(fold).train.labels) for fold in dealt)
    assert len(pool.index) < len(dealt[0]) + most
