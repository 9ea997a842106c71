"""No patient is in two splits, the shares are as requested, and the same seed gives the same split."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pneumonia.core.errors import InputError
from pneumonia.core.params import SplitParams, SplitRatios
from pneumonia.records.merge import merge_folders
from pneumonia.records.splits import SPLITS, assign_splits, count_crossing, describe_splits, group_patients, read_alike

KAGGLE = (1_583, 4_273)  # images without, with pneumonia


def make_params(strategy: Any = "patient", ratios: tuple[float, ...] = (0.8, 0.1, 0.1), seed: int = 123) -> SplitParams:
    train, val, test = ratios
    return SplitParams(
        strategy=strategy, ratios=SplitRatios(train=train, val=val, test=test), group_near_duplicates=False, seed=seed
    )


def make_records(normal: int, pneumonia: int, seed: int = 0, images: int = 4, copies: int = 0) -> pd.DataFrame:
    """Return patients with 1 to `images` images each in the owner's folders, `copies` of them the same picture."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"label": ["NORMAL"] * normal + ["PNEUMONIA"] * pneumonia})
    numbers = np.repeat(np.arange(len(table)), rng.integers(1, images, len(table), endpoint=True))[: len(table)]
    rows = np.arange(len(table))
    digests = rows.copy()
    if copies:  # of any image of the class, so of other patients too
        label = rng.integers(2, size=copies)
        first, size = np.where(label, normal, 0), np.where(label, pneumonia, normal)
        digests[first + rng.integers(size)] = first + rng.integers(size)
    return table.assign(
        path=[f"image{row:05}" for row in rows],
        patient_id=[f"{label}{number}" for label, number in zip(table["label"], numbers, strict=True)],
        sha256=[f"{row:064x}" for row in rows],
        pixels_sha256=[f"{digest:064x}" for digest in digests],
        source_folder=rng.choice(SPLITS, len(table), p=[0.85, 0.03, 0.12]),
    )


@settings(derandomize=True, max_examples=10, deadline=None)
@given(
    strategy=st.sampled_from(["patient", "original"]),
    seed=st.integers(0, 10_000),
    images=st.integers(1, 6),
    copies=st.integers(0, 12),
)
def test_no_patient_and_no_picture_is_in_two_splits(strategy: str, seed: int, images: int, copies: int):
    records = make_records(120, 200, seed, images, copies)
    table = assign_splits(records, make_params(strategy, seed=seed))
    for column in ("patient_id", "pixels_sha256"):
        assert (table.groupby(column)["split"].nunique() == 1).all()


@settings(derandomize=True, max_examples=5, deadline=None)
@given(strategy=st.sampled_from(["patient", "stratified"]), seed=st.integers(0, 10_000), copies=st.integers(0, 12))
def test_every_image_is_in_exactly_one_split(strategy: str, seed: int, copies: int):
    records = make_records(120, 200, seed, copies=copies)
    table = assign_splits(records, make_params(strategy, seed=seed))
    pd.testing.assert_frame_equal(table.drop(columns="split"), records)
    assert set(table["split"]) == set(SPLITS)


def test_copies_of_a_picture_link_patients_also_through_others_and_images_of_unknown_patients():
    records = pd.DataFrame({"patient_id": ["a", "b", "b", "", ""], "pixels_sha256": ["1", "1", "2", "2", "3"]})
    records = records.assign(sha256=list("vwxyz"))
    groups = group_patients(records)
    assert len(set(groups[:4])) == 1
    assert groups[4] != groups[0]


def make_pairs(*pairs: tuple[str, str]) -> pd.DataFrame:
    return pd.DataFrame(pairs, columns=["sha256", "other_sha256"], dtype="str")


def test_near_duplicates_link_patients_and_pairs_of_other_images_nobody():
    records = make_records(3, 3, images=1)
    digests = records["sha256"].tolist()
    pairs = make_pairs((digests[0], digests[4]), (digests[4], digests[2]), (digests[1], "f" * 64))
    groups = group_patients(records, pairs)
    assert groups[0] == groups[4] == groups[2]
    assert len(set(groups)) == 4
    assert group_patients(records, make_pairs()).tolist() == group_patients(records).tolist()


@settings(derandomize=True, max_examples=5, deadline=None)
@given(strategy=st.sampled_from(["patient", "original"]), seed=st.integers(0, 10_000))
def test_no_pair_of_near_duplicates_is_in_two_splits(strategy: str, seed: int):
    records = make_records(120, 200, seed)
    chosen = np.random.default_rng(seed).choice(records["sha256"], (12, 2), replace=False)
    table = assign_splits(records, make_params(strategy, seed=seed), alike=make_pairs(*map(tuple, chosen)))
    splits = table.set_index("sha256")["split"]
    pairs = [(splits[one], splits[other]) for one, other in chosen if {one, other} <= set(splits.index)]
    assert pairs and all(one == other for one, other in pairs)


def test_pairs_are_read_only_if_asked_for_and_must_be_pairs(tmp_path: Path):
    asked = make_params().model_copy(update={"group_near_duplicates": True})
    (tmp_path / "pairs.csv").write_text("sha256,other_sha256,distance\na,b,0.01\n")
    (tmp_path / "less.csv").write_text("sha256\na\n")
    assert read_alike(tmp_path / "less.csv", make_params()) is None
    assert read_alike(tmp_path / "pairs.csv", asked).to_numpy().tolist() == [["a", "b"]]  # pyright: ignore[reportOptionalMemberAccess]
    with pytest.raises(InputError, match="is not a table of this pipeline"):
        read_alike(tmp_path / "less.csv", asked)


@pytest.mark.parametrize(
    "ratios",
    [(0.8, 0.1, 0.1), (0.7, 0.15, 0.15), (0.6, 0.2, 0.2), (0.75, 0.15, 0.1), (1 / 3, 1 / 3, 1 / 3), (0.9, 0.05, 0.05)],
)
def test_ratios_and_class_shares_are_met_within_one_and_a_half_percent(ratios: tuple[float, ...]):
    table = assign_splits(make_records(270, 730, copies=5), make_params(ratios=ratios))
    for split, share in zip(SPLITS, ratios, strict=True):
        part = table[table["split"] == split]
        assert len(part) / len(table) == pytest.approx(share, abs=0.015)
        assert part["label"].eq("NORMAL").mean() == pytest.approx(0.27, abs=0.015)


@pytest.mark.parametrize("ratios", [(0.98, 0.01, 0.01), (0.66, 0.33, 0.01), (0.5, 0.49, 0.01), (0.02, 0.49, 0.49)])
def test_a_share_too_small_for_a_fold_gets_one_twentieth(ratios: tuple[float, ...]):
    table = assign_splits(make_records(120, 300), make_params(ratios=ratios))
    for split, share in zip(SPLITS, ratios, strict=True):
        assert (table["split"] == split).mean() == pytest.approx(max(share, 0.05), abs=0.085)


@pytest.mark.parametrize("strategy", ["patient", "stratified", "original"])
def test_only_the_seed_decides_the_split(strategy: str):
    records = make_records(120, 200)
    one, same, other = (
        assign_splits(records, make_params(strategy, seed=seed)).set_index("path")["split"] for seed in (1, 1, 2)
    )
    assert one.equals(same)
    assert not one.equals(other)


@pytest.mark.parametrize("strategy", ["patient", "stratified", "original"])
def test_the_split_does_not_depend_on_the_order_of_the_files(strategy: str):
    records = make_records(120, 200)
    shuffled = records.sample(frac=1, random_state=0)
    one, other = (
        assign_splits(merge_folders(table, True), make_params(strategy)).set_index("path")["split"]
        for table in (records, shuffled)
    )
    assert one.equals(other)


def test_the_stratified_split_of_kaggles_counts_has_the_published_class_shares():
    table = assign_splits(make_records(*KAGGLE), make_params("stratified"))
    report = describe_splits(table, len(table))
    assert [report[split]["normal_share"] for split in SPLITS] == [0.2703, 0.2713, 0.2696]
    assert [report[split]["images"] for split in SPLITS] == [4_684, 586, 586]
    assert (report["train"]["NORMAL"], report["train"]["PNEUMONIA"]) == (1_266, 3_418)


def test_the_stratified_split_leaks_patients_and_counts_them():
    table = assign_splits(make_records(120, 200), make_params("stratified"))
    by_patient = table.groupby("patient_id")["split"].agg(set)
    crossing = describe_splits(table, len(table))["crossing_patients"]
    assert crossing == sum(len(splits) > 1 for splits in by_patient) > 0


def test_the_owners_test_folder_stays_whole():
    records = make_records(150, 350)
    table = assign_splits(records, make_params("original"))
    owned = records.loc[records["source_folder"] == "test", "path"]
    assert set(table.loc[table["split"] == "test", "path"]) == set(owned)


def test_images_of_the_owners_test_patients_are_left_out_of_train_and_val_and_counted():
    records = make_records(150, 350)
    table = assign_splits(records, make_params("original"))
    tested = records["patient_id"].isin(records.loc[records["source_folder"] == "test", "patient_id"])
    elsewhere = tested & (records["source_folder"] != "test")
    assert set(records["path"]) - set(table["path"]) == set(records.loc[elsewhere, "path"])
    assert describe_splits(table, len(records))["left_out"] == elsewhere.sum() > 0


def test_the_owners_val_patients_stay_in_val():
    records = make_records(150, 350)
    table = assign_splits(records, make_params("original"))
    theirs = table["patient_id"].isin(table.loc[table["source_folder"] == "val", "patient_id"])
    assert 0 < theirs.sum() < len(table)
    assert set(table.loc[theirs, "split"]) == {"val"}


def test_an_original_split_needs_the_owners_test_folder():
    records = make_records(120, 200).assign(source_folder="all")
    with pytest.raises(InputError, match=r"source folders are all\.\n.*Expected: the owner's train and test folders"):
        assign_splits(records, make_params("original"))


def test_the_split_does_not_depend_on_the_index_of_the_table():
    records = make_records(120, 200)
    renumbered = records.set_axis(range(1000, 1320))
    for strategy in ("patient", "stratified", "original"):
        one, other = (assign_splits(table, make_params(strategy)) for table in (records, renumbered))
        pd.testing.assert_frame_equal(one, other)


@pytest.mark.parametrize("strategy", ["patient", "original"])
def test_too_few_patients_of_a_class_are_refused_however_many_images_they_have(strategy: str):
    records = make_records(90, 200).assign(source_folder=["train", "test"] * 145)
    few = records["label"].eq("NORMAL")
    records.loc[few, "patient_id"] = [f"few{row % 5}" for row in range(few.sum())]
    with pytest.raises(InputError, match=r"patients per class(.|\n)*add images"):
        assign_splits(records, make_params(strategy))


@pytest.mark.parametrize("strategy", ["patient", "stratified", "original"])
@pytest.mark.parametrize(("normal", "pneumonia"), [(0, 100), (100, 0), (1, 100)])
def test_a_class_that_cannot_reach_every_split_is_refused(strategy: str, normal: int, pneumonia: int):
    with pytest.raises(InputError, match="cannot be split"):
        assign_splits(make_records(normal, pneumonia), make_params(strategy))


@pytest.mark.parametrize("seed", range(5))
def test_sixty_images_with_few_normal_patients_are_enough(seed: int):
    records = make_records(16, 44, images=1)
    records.loc[:3, "patient_id"] = "NORMAL0"
    table = assign_splits(records, make_params(seed=seed))
    assert table.groupby("split")["label"].nunique().to_dict() == dict.fromkeys(SPLITS, 2)


def test_crossing_patients_and_files_are_counted_separately():
    table = pd.DataFrame(
        {
            "patient_id": ["a", "a", "b", "b", "c"],
            "pixels_sha256": ["1", "2", "3", "4", "4"],
            "split": ["train", "val", "test", "test", "train"],
        }
    )
    assert count_crossing(table) == {"crossing_patients": 1, "crossing_patients_at_least": 1, "crossing_files": 1}


def test_patients_known_to_cross_are_counted_where_others_are_unknown():
    table = pd.DataFrame(
        {"patient_id": ["a", "a", "", "", ""], "pixels_sha256": list("12345"), "split": ["train", "val"] * 2 + ["test"]}
    )
    assert count_crossing(table) == {"crossing_patients": None, "crossing_patients_at_least": 1, "crossing_files": 0}


def forget(records: pd.DataFrame, images: int) -> pd.DataFrame:
    """Return records in which the patients of the first images are unknown."""
    return records.assign(patient_id=records["patient_id"].where(np.arange(len(records)) >= images, ""))


@pytest.mark.parametrize("strategy", ["patient", "original"])
@pytest.mark.parametrize("unknown", [1, 320])
def test_patients_are_not_split_where_one_is_unknown_and_the_ways_out_are_named(strategy: str, unknown: int):
    with pytest.raises(InputError) as error:
        assign_splits(forget(make_records(120, 200), unknown), make_params(strategy))
    what, expected, remedy = str(error.value).split("\n")
    assert f"Whose {unknown} of 320 images are is unknown, such as image00000" in what
    assert f"split.strategy={strategy}" in expected
    for way_out in ("table", "pattern", "folder", "dicom", "each_image", "stratified", "docs/data.md"):
        assert way_out in remedy


@pytest.mark.parametrize("unknown", [1, 320])
def test_what_a_split_does_to_unknown_patients_is_unknown_and_never_zero(unknown: int):
    records = forget(make_records(120, 200), unknown)
    told = assign_splits(records, make_params(), each_image=True)
    for table in (told, assign_splits(records, make_params("stratified"))):
        report = describe_splits(table, len(records))
        assert report["crossing_patients"] is None
        of_unknown = set(table.loc[table["patient_id"].eq(""), "split"])
        assert {split for split in SPLITS if report[split]["patients"] is None} == of_unknown


def test_each_image_of_an_unknown_patient_is_a_group_and_copies_stay_together():
    records = make_records(120, 200, images=6, copies=12).assign(patient_id="")
    groups = group_patients(records)
    assert len(set(groups)) == records["pixels_sha256"].nunique()
    assert (records["pixels_sha256"].groupby(groups).nunique() == 1).all()


def test_the_report_counts_images_patients_and_classes_of_every_split():
    table = assign_splits(make_records(120, 200), make_params())
    report = describe_splits(table, len(table) + 3)
    assert sum(report[split]["images"] for split in SPLITS) == 320
    assert sum(report[split]["NORMAL"] for split in SPLITS) == 120
    assert sum(report[split]["patients"] for split in SPLITS) == table["patient_id"].nunique()
    assert report["left_out"] == 3
