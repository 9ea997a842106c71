"""The real images, where they are present: the seed system's split, and full-resolution originals."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from projects import REAL_IMAGES, run, set_params
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pneumonia.augment.balance import balance
from pneumonia.augment.build import read_split
from pneumonia.core.params import ModelParams, Params, SplitParams
from pneumonia.core.params_file import load_params
from pneumonia.models.classifier import build_model
from pneumonia.models.cut import cut_model
from pneumonia.records.merge import merge_folders
from pneumonia.records.scan import scan_images
from pneumonia.records.splits import assign_splits, describe_splits

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def params() -> Params:
    return load_params()


@pytest.fixture(scope="module")
def stratified(params: Params) -> pd.DataFrame:
    if not REAL_IMAGES.exists():
        pytest.skip(f"the real images are not at {REAL_IMAGES}")
    records, _ = scan_images(REAL_IMAGES)
    seed_system = SplitParams(strategy="stratified", ratios=params.split.ratios, group_near_duplicates=False, seed=123)
    return assign_splits(merge_folders(records, drop_duplicates=False), seed_system)


def test_the_stratified_split_has_the_shares_of_the_seed_system(stratified: pd.DataFrame) -> None:
    report = describe_splits(stratified, images=5856)
    assert [report[split]["normal_share"] for split in ("train", "val", "test")] == [0.2703, 0.2713, 0.2696]
    assert report["crossing_patients"] > 0


def test_balancing_gives_both_classes_3418_training_images(stratified: pd.DataFrame, params: Params) -> None:
    balanced = balance(stratified[stratified["split"] == "train"], params.augment)
    assert balanced["label"].value_counts().to_dict() == {"NORMAL": 3418, "PNEUMONIA": 3418}


@pytest.mark.parametrize("size", [1, 2])
def test_published_weights_tell_pneumonia_from_normal_images_of_other_patients(
    stratified: pd.DataFrame, params: Params, size: int
) -> None:
    weights = ModelParams(
        backbone=f"efficientnet_lite{size}", weights="imagenet", head="sigmoid", image_size="auto", dropout=0.0
    )
    model = build_model(weights)
    of_patients = SplitParams(strategy="patient", ratios=params.split.ratios, group_near_duplicates=False, seed=123)
    table = assign_splits(stratified.drop(columns="split"), of_patients)

    def pool(split: str) -> tuple[np.ndarray, np.ndarray]:
        sample = table[table["split"] == split].sample(150, random_state=0)
        images = read_split(sample, REAL_IMAGES, size=model.input_shape[1])
        x: Any = images.images[..., None]
        for part in cut_model(model).frozen:
            x = part.predict(x, batch_size=32, verbose=0)  # pyright: ignore[reportArgumentType]
        return x, images.labels

    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(*pool("train"))
    pooled, labels = pool("test")
    assert roc_auc_score(labels, classifier.decision_function(pooled)) > 0.9


def test_full_resolution_originals_pass_validation_and_train(project: Path) -> None:
    originals = REAL_IMAGES.parent / "originals"
    if not originals.exists():
        pytest.skip(f"the originals are not at {originals}")
    set_params(project, {"data": {"source": "folder", "path": str(originals)}})
    run("dvc", "repro", "finetune", cwd=project)
    assert len(pd.read_csv(project / "data" / "records.csv")) == 120
    assert len(pd.read_csv(project / "reports" / "finetune_history.csv")) == 2
