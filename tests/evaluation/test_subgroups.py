"""Every image has a group in each of four groupings, and a group is measured as if there were no other images."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pneumonia.core.tables import DTYPES
from pneumonia.evaluation.intervals import measure_intervals
from pneumonia.evaluation.subgroups import KINDS, MIN_IMAGES, MIN_PATIENTS, RATES, describe_groups, measure_groups
from pneumonia.records.scan import scan_images
from pneumonia.sources.phantom import draw_phantoms


def make_records(rows: int = 0, **columns: list[Any]) -> pd.DataFrame:
    """Return records with the given columns and plausible values in the others."""
    rows = rows or len(next(iter(columns.values())))
    made = {
        "path": [f"train/PNEUMONIA/person{row}_virus_{row}.jpeg" for row in range(rows)],
        "label": "PNEUMONIA",
        "patient_id": [f"person{row}" for row in range(rows)],
        "source_folder": "train",
        "sha256": [f"{row:064x}" for row in range(rows)],
        "pixels_sha256": [f"{row:064x}" for row in range(rows)],
        "width": 3000,
        "height": 2000,
        "mode": "L",
        "contrast": 50.0,
        "modality": "",
        "view": "",
        "body_part": "",
    }
    return pd.DataFrame(made | columns).astype(DTYPES)


def draw_images(greys: list[float]) -> Any:
    """Return images of these mean grey values, a hundredth apart at least."""
    images = np.repeat(np.floor(greys).astype(np.uint8), 100).reshape(-1, 100)
    for image, grey in zip(images, greys, strict=True):
        image[: round(grey % 1 * 100)] += 1
    return images.reshape(-1, 10, 10)


def sizes_of(sides: list[int]) -> list[str]:
    return describe_groups(make_records(height=sides), draw_images([9] * len(sides)))["image size"].tolist()


def exposures_of(greys: list[float]) -> list[str]:
    return describe_groups(make_records(len(greys)), draw_images(greys))["exposure"].tolist()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("person7_bacteria_24.jpeg", "bacteria"),
        ("person88_virus_163.jpeg", "virus"),
        ("person1_virus_6_1.jpeg", "virus"),
        ("BACTERIA-1008087-0001.jpeg", "bacteria"),
        ("VIRUS-1008087-0002.jpeg", "virus"),
        ("virus_12.png", "virus"),
        ("scan 12.jpeg", "unnamed pneumonia"),
        ("antivirus_12.jpeg", "unnamed pneumonia"),
        ("person7_fungus_1.jpeg", "unnamed pneumonia"),
        ("virus.jpeg", "unnamed pneumonia"),
    ],
)
def test_the_kind_of_pneumonia_comes_from_the_file_name(name: str, kind: str):
    # The names of folders do not count.
    records = make_records(path=[f"virus_1/PNEUMONIA/{name}", name])
    assert describe_groups(records, draw_images([1, 2]))["kind"].tolist() == [kind, kind]


@pytest.mark.parametrize("name", ["IM-0115-0001.jpeg", "NORMAL-0012-0001.png", "person7_bacteria_24.jpeg", "scan.png"])
def test_an_image_labelled_normal_is_normal_whatever_its_name(name: str):
    records = make_records(path=[f"test/NORMAL/{name}"], label=["NORMAL"])
    assert describe_groups(records, draw_images([1]))["kind"].tolist() == ["normal"]


def test_every_phantom_has_a_kind(tmp_path: Path):
    draw_phantoms(tmp_path, 60, seed=7)
    records, _ = scan_images(tmp_path)
    kinds = describe_groups(records, np.zeros((len(records), 4, 4), np.uint8))["kind"]
    assert set(kinds) == set(KINDS) - {"unnamed pneumonia"}
    assert ((kinds == "normal") == (records["label"] == "NORMAL")).all()


def test_the_source_folder_is_the_owners():
    folders = ["val", "test", "all", "test"]
    groups = describe_groups(make_records(source_folder=folders), draw_images([1, 2, 3, 4]))
    assert groups["source folder"].tolist() == folders


def test_size_is_that_of_the_shorter_side():
    records = make_records(width=[500, 900, 700], height=[900, 600, 701])
    names = describe_groups(records, draw_images([1, 2, 3]))["image size"].tolist()
    assert names == ["up to 599 px", "600 to 699 px", "from 700 px"]


def test_thirds_are_equally_large_when_all_values_differ():
    names = pd.Series(sizes_of(list(range(609, 600, -1))))
    assert names.value_counts().to_dict() == {"up to 603 px": 3, "604 to 606 px": 3, "from 607 px": 3}


def test_exposure_is_by_the_mean_grey_value_and_its_bounds_are_exact():
    assert exposures_of([100.99, 101, 101.5, 130.99, 131, 140]) == [
        "dark (mean below 101)",
        *["medium"] * 2,
        *["medium", "bright (mean from 131)", "bright (mean from 131)"],
    ]


def test_two_values_make_two_groups_however_unequal():
    assert sizes_of([300, 200, 200, 200, 200]) == ["from 300 px", *["up to 299 px"] * 4]
    assert exposures_of([90, 120, 120, 120]) == ["dark (mean below 120)", *["bright (mean from 120)"] * 3]


def test_one_value_makes_one_group():
    assert sizes_of([224, 224, 224]) == ["224 px"] * 3
    assert exposures_of([112.25, 112.75]) == ["mean 112"] * 2


@settings(derandomize=True, max_examples=60, deadline=None)
@given(sides=st.lists(st.integers(64, 90), min_size=1, max_size=40))
def test_equal_values_share_a_third_and_larger_ones_lie_in_no_lower_third(sides: list[int]):
    groups = describe_groups(make_records(height=sides), draw_images([9] * len(sides)))["image size"]
    codes = pd.Series(groups.cat.codes.to_numpy(), sides).sort_index()
    assert codes.groupby(level=0).nunique().eq(1).all()
    assert codes.is_monotonic_increasing
    assert set(codes) == set(range(len(groups.cat.categories)))  # no group is empty
    assert min(len(set(sides)), 2) <= len(set(codes)) <= min(len(set(sides)), 3)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(sides=st.lists(st.integers(64, 90), min_size=1, max_size=40))
def test_a_size_lies_within_the_bounds_of_its_name(sides: list[int]):
    for side, name in zip(sides, sizes_of(sides), strict=True):
        match name.split():
            case ["up", "to", high, "px"]:
                assert side <= int(high)
            case ["from", low, "px"]:
                assert side >= int(low)
            case [low, "to", high, "px"]:
                assert int(low) <= side <= int(high)
            case [same, "px"]:
                assert side == int(same)
            case _:
                raise AssertionError(name)


def test_groups_keep_the_index_and_the_order_of_the_records():
    records = make_records(source_folder=["val", "test", "train"], height=[300, 100, 200])
    records.index = pd.Index([7, 3, 5])
    groups = describe_groups(records, draw_images([30, 10, 20]))
    assert groups.index.tolist() == [7, 3, 5]
    assert groups.columns.tolist() == ["kind", "source folder", "image size", "exposure"]
    assert groups.iloc[1].tolist() == ["virus", "test", "up to 199 px", "dark (mean below 20)"]


LABELS = np.array([1, 1, 1, 0, 0, 1, 1], np.uint8)
PROBABILITIES = np.array([0.9, 0.8, 0.3, 0.4, 0.6, 0.7, 0.2])
PATIENTS = np.array(["a", "a", "b", "c", "d", "e", "f"])
GROUPS = pd.DataFrame({
    "shape": pd.Categorical([*["square"] * 5, *["round"] * 2], ["square", "flat", "round"], ordered=True),
    "colour": [*["grey"] * 2, *["blue"] * 5],
})  # fmt: skip


def measure(groups: pd.DataFrame = GROUPS, **changes: Any) -> pd.DataFrame:
    given = {"labels": LABELS, "probabilities": PROBABILITIES, "patients": PATIENTS, "resamples": 50} | changes
    return measure_groups(groups, threshold=0.5, **given)


def measure_group(group: str, **changes: Any) -> Any:
    return measure(**changes).set_index("group").loc[group]


def test_every_grouping_has_a_row_for_each_group_that_occurs_in_the_order_of_its_categories():
    rows = measure()[["by", "group"]].to_numpy().tolist()
    assert rows == [["shape", "square"], ["shape", "round"], ["colour", "blue"], ["colour", "grey"]]


def test_images_patients_and_pneumonia_are_counted():
    counts = ["images", "patients", "pneumonia"]
    assert measure_group("square")[counts].tolist() == [5, 4, 3]
    assert measure_group("grey")[counts].tolist() == [2, 1, 2]


def test_rates_are_those_counted_by_hand():
    square = measure_group("square")
    assert square["sensitivity"] == pytest.approx(2 / 3)
    assert square["specificity"] == pytest.approx(1 / 2)
    assert square["roc_auc"] == pytest.approx(4 / 6)


def test_a_rate_that_needs_a_missing_class_is_nan():
    ill = measure_group("round")
    assert ill["sensitivity"] == 0.5
    assert ill[[f"{rate}{end}" for rate in ("specificity", "roc_auc") for end in ("", "_low", "_high")]].isna().all()
    healthy = measure_group("round", labels=np.zeros(7, np.uint8))
    assert healthy["specificity"] == 0.5
    assert healthy[["sensitivity", "roc_auc"]].isna().all()


def test_a_group_is_measured_as_if_there_were_no_other_images():
    rng = np.random.default_rng(1)
    part, patients = np.arange(0, 60, 2), np.arange(60) // 3
    labels, probabilities = rng.integers(0, 2, 60).astype(np.uint8), rng.random(60)
    groups = pd.DataFrame({"parity": ["even", "odd"] * 30})
    table: Any = measure(groups, labels=labels, probabilities=probabilities, patients=patients, seed=3)
    alone: Any = measure_intervals(labels[part], probabilities[part], 0.5, patients[part], 50, 3)
    for rate in RATES:
        found = table.loc[0, [rate, f"{rate}_low", f"{rate}_high"]].tolist()
        assert found == alone.loc[rate, ["value", "low", "high"]].tolist()


def test_the_table_has_its_columns_and_plain_types():
    table = measure()
    assert table.columns.tolist() == [
        *("by", "group", "images", "patients", "pneumonia"),
        *("sensitivity", "sensitivity_low", "sensitivity_high"),
        *("specificity", "specificity_low", "specificity_high"),
        *("roc_auc", "roc_auc_low", "roc_auc_high"),
        "small",
    ]
    assert [dtype.kind for dtype in table.dtypes.iloc[2:]] == [*"iii", *"f" * 9, "b"]


def test_rows_of_groups_belong_to_images_by_position_not_by_index():
    moved = GROUPS.set_axis([6, 5, 4, 3, 2, 1, 0])
    pd.testing.assert_frame_equal(measure(moved), measure(GROUPS))


@pytest.mark.parametrize(
    ("ill", "healthy", "images_each", "small"),
    [
        (MIN_PATIENTS, MIN_PATIENTS, 2, False),
        (MIN_PATIENTS - 1, 3 * MIN_IMAGES, 1, True),
        (3 * MIN_IMAGES, MIN_PATIENTS - 1, 1, True),
        (MIN_PATIENTS, MIN_PATIENTS, 1, True),  # 20 images
        (MIN_IMAGES, 0, 1, False),
        (0, MIN_IMAGES, 1, False),
        (MIN_IMAGES - 1, 0, 1, True),
        (MIN_PATIENTS - 1, 0, 10, True),  # many images of few patients
    ],
)
def test_a_group_is_small_with_few_images_or_few_patients_of_a_class_that_occurs(
    ill: int, healthy: int, images_each: int, small: bool
):
    patients = np.repeat(np.arange(ill + healthy), images_each)
    labels = (patients < ill).astype(np.uint8)
    groups = pd.DataFrame({"all": ["same"] * len(labels)})
    table = measure(groups, labels=labels, patients=patients, probabilities=np.linspace(0, 1, len(labels)))
    assert table["small"].tolist() == [small]


def test_a_patient_with_images_of_both_classes_counts_in_each():
    patients = np.tile([f"person{k}" for k in range(MIN_PATIENTS)], 4)
    labels = np.repeat(np.array([0, 1], np.uint8), 2 * MIN_PATIENTS)
    groups = pd.DataFrame({"all": ["same"] * len(labels)})
    table = measure(groups, labels=labels, patients=patients, probabilities=np.linspace(0, 1, len(labels)))
    assert table[["patients", "small"]].to_numpy().tolist() == [[MIN_PATIENTS, False]]


def test_described_groups_can_be_measured():
    rng = np.random.default_rng(1)
    records = make_records(
        height=rng.integers(100, 300, 60).tolist(), source_folder=["test", "train"] * 30,
        label=["NORMAL", "PNEUMONIA", "PNEUMONIA"] * 20,
    )  # fmt: skip
    groups = describe_groups(records, rng.integers(0, 255, (60, 4, 4)).astype(np.uint8))
    labels = (records["label"] == "PNEUMONIA").to_numpy().astype(np.uint8)
    table = measure_groups(groups, labels, rng.random(60), 0.5, records["patient_id"].to_numpy(), resamples=20)
    assert table.groupby("by")["images"].sum().eq(60).all()
    assert table.groupby("by")["pneumonia"].sum().eq(40).all()
    assert table.loc[table["by"] == "kind", "group"].tolist() == ["virus", "normal"]
