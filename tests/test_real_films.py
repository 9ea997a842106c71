"""The real films, where they are at hand: the seed system's split, and full-resolution originals."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import REAL_FILMS, run, set_params

from pneumonia.augment import balance, read_split
from pneumonia.params import Params, SplitParams, load_params
from pneumonia.records import merge_folders, scan_films
from pneumonia.splits import assign_splits, describe_splits

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def params() -> Params:
    return load_params()


@pytest.fixture(scope="module")
def stratified(params: Params) -> pd.DataFrame:
    if not REAL_FILMS.exists():
        pytest.skip(f"the real films are not at {REAL_FILMS}")
    records, _ = scan_films(REAL_FILMS)
    seed_system = SplitParams(strategy="stratified", ratios=params.split.ratios, seed=123)
    return assign_splits(merge_folders(records, drop_duplicates=False), seed_system)


def test_the_stratified_split_has_the_shares_of_the_seed_system(stratified: pd.DataFrame) -> None:
    report = describe_splits(stratified, films=5856)
    assert [report[split]["normal_share"] for split in ("train", "val", "test")] == [0.2703, 0.2713, 0.2696]
    assert report["crossing_patients"] > 0


def test_balancing_gives_both_classes_3418_training_films(stratified: pd.DataFrame, params: Params) -> None:
    train = read_split(stratified[stratified["split"] == "train"], REAL_FILMS, size=8)
    assert np.bincount(balance(train, params.augment).labels).tolist() == [3418, 3418]


def test_full_resolution_originals_pass_validation_and_train(project: Path) -> None:
    originals = REAL_FILMS.parent / "originals"
    if not originals.exists():
        pytest.skip(f"the originals are not at {originals}")
    set_params(project, {"data": {"source": "folder", "path": str(originals)}})
    run("dvc", "repro", "finetune", cwd=project)
    assert len(pd.read_csv(project / "data" / "records.csv")) == 120
    assert len(pd.read_csv(project / "reports" / "finetune_history.csv")) == 2
