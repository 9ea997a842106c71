"""Folds are scikit-learn's, by patient and picture, and validation is dealt from what is not held out."""

import numpy as np
import pandas as pd
import pytest
from image_tables import make_records
from sklearn.model_selection import StratifiedGroupKFold

from pneumonia.core.errors import InputError
from pneumonia.core.params import SplitParams, SplitRatios
from pneumonia.crossval.folds import deal_folds
from pneumonia.records.splits import group_patients

SPLIT = SplitParams(
    strategy="patient", ratios=SplitRatios(train=0.6, val=0.2, test=0.2), group_near_duplicates=False, seed=5
)


def make_table(normal: int = 60, ill: int = 100) -> pd.DataFrame:
    """Return images of which up to three are of one patient, some of a patient of both classes, some of one picture."""
    rng = np.random.default_rng(1)
    labels = ["NORMAL"] * normal + ["PNEUMONIA"] * ill
    patients = [f"{label}{number // 2}" for number, label in enumerate(labels)]
    for row in (0, 70, 71):
        patients[row] = "both"
    pictures = [f"{row:064x}" for row in range(len(labels))]
    for row, other in rng.choice(np.arange(normal, normal + ill), (5, 2), replace=False):
        pictures[row] = pictures[other]
    table = make_records(label=labels, patient_id=patients, pixels_sha256=pictures)
    return table.sample(frac=1, random_state=0).reset_index(drop=True)


@pytest.mark.parametrize("folds", [2, 5, 10])
def test_no_patient_and_no_picture_is_on_two_sides_and_every_image_is_held_out_once(folds: int) -> None:
    table = make_table()
    dealt = deal_folds(table, folds, SPLIT, each_image=False)
    assert pd.concat([fold["split"].eq("test") for fold in dealt], axis=1).sum(axis=1).eq(1).all()
    for fold in dealt:
        assert fold["path"].tolist() == table["path"].tolist()
        for column in ("patient_id", "pixels_sha256"):
            assert fold.groupby(column)["split"].nunique().eq(1).all()
        assert fold.groupby("split")["label"].nunique().to_dict() == dict.fromkeys(("train", "val", "test"), 2)


def test_near_duplicates_stay_on_one_side_of_every_fold() -> None:
    table = make_table()
    pairs = pd.DataFrame(table["sha256"].to_numpy()[:40].reshape(20, 2), columns=["sha256", "other_sha256"])
    for fold in deal_folds(table, 3, SPLIT, each_image=False, alike=pairs):
        split = fold.set_index("sha256")["split"]
        assert (split[pairs["sha256"]].to_numpy() == split[pairs["other_sha256"]].to_numpy()).all()


def test_folds_are_those_of_stratified_group_k_fold() -> None:
    table = make_table()
    expected = StratifiedGroupKFold(5, shuffle=True, random_state=5)
    held_out = [rows.tolist() for _, rows in expected.split(table, table["label"], group_patients(table))]
    dealt = deal_folds(table, 5, SPLIT, each_image=False)
    assert [np.flatnonzero(fold["split"] == "test").tolist() for fold in dealt] == held_out


def test_validation_takes_its_share_of_what_is_not_held_out() -> None:
    for fold in deal_folds(make_table(), 5, SPLIT, each_image=False):
        counts = fold["split"].value_counts()
        assert counts["val"] / (counts["train"] + counts["val"]) == pytest.approx(0.25, abs=0.02)


def test_as_many_folds_as_patients_of_the_rarer_class_are_dealt_and_more_are_refused() -> None:
    labels = ["NORMAL"] * 12 + ["PNEUMONIA"] * 40
    table = make_records(label=labels, patient_id=[f"{label}{row // 2}" for row, label in enumerate(labels)])
    assert len(deal_folds(table, 6, SPLIT, each_image=False)) == 6
    with pytest.raises(InputError, match=r"7 folds cannot be dealt: .*'NORMAL': 6(.|\n)*Remedy: lower --folds"):
        deal_folds(table, 7, SPLIT, each_image=False)


@pytest.mark.parametrize("labels", [["NORMAL"] * 40, ["NORMAL"] * 40 + ["PNEUMONIA"]])
def test_a_class_that_is_missing_or_too_rare_is_refused(labels: list[str]) -> None:
    with pytest.raises(InputError, match=r"2 folds cannot be dealt"):
        deal_folds(make_records(label=labels), 2, SPLIT, each_image=False)


def test_unknown_patients_are_refused_unless_the_user_said_that_each_image_is_one() -> None:
    table = make_table().assign(patient_id="")
    with pytest.raises(InputError, match=r"Whose 160 of 160 images are is unknown(.|\n)*data\.patients"):
        deal_folds(table, 2, SPLIT, each_image=False)
    for fold in deal_folds(table, 2, SPLIT, each_image=True):
        assert fold.groupby("pixels_sha256")["split"].nunique().eq(1).all()
