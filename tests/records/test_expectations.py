"""The suite stops at what would spoil a model, and only warns of the rest."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from image_tables import make_records, make_refused
from projects import REAL_IMAGES

from pneumonia.core.errors import InputError
from pneumonia.core.files import sha256_bytes
from pneumonia.core.params import DataParams, ValidateParams
from pneumonia.records.check import Check, raise_on_critical
from pneumonia.records.expectations import check_images
from pneumonia.records.scan import scan_images

PARAMS = ValidateParams(max_refused_share=0.1, min_side=64, max_aspect=4, min_contrast=2, min_class_share=0.2)
DATA = DataParams(source="phantom", path=Path("unused"), patients="auto", images=48, seed=7)

Plant = Callable[[pd.DataFrame], pd.DataFrame]


def draw_records(images: int = 10) -> pd.DataFrame:
    """Return valid records, every other image with pneumonia."""
    return make_records(label=[("NORMAL", "PNEUMONIA")[row % 2] for row in range(images)])


def put(row: int, column: str, value: str | float | None) -> Plant:
    def plant(records: pd.DataFrame) -> pd.DataFrame:
        return records.assign(**{column: records[column].where(records.index != row, value)})

    return plant


def check(records: pd.DataFrame, docs: Path, refused: int = 0, source: str = "phantom") -> dict[str, Check]:
    data = DATA.model_copy(update={"source": source})
    return {found.name: found for found in check_images(records, make_refused(refused), PARAMS, data, docs)}


def test_a_good_table_passes_and_names_what_was_not_checked(tmp_path: Path) -> None:
    checks = check(draw_records(), tmp_path)
    raise_on_critical(list(checks.values()), tmp_path)
    assert [name for name, found in checks.items() if not found.success] == ["release_images"]
    assert checks["release_images"].success is None
    assert "phantom" in checks["release_images"].observed


# A table in which each of these is wrong in one row, another each.
FAULTY: dict[str, tuple[Plant, str]] = {
    "labels_known": (put(3, "label", "COVID"), "train/PNEUMONIA/image3.jpeg (COVID)"),
    "large_enough": (put(4, "height", 63), "train/NORMAL/image4.jpeg (63)"),
    "plausible_aspect": (put(5, "width", 801), "train/PNEUMONIA/image5.jpeg (4.005)"),
    "not_blank": (put(6, "contrast", 1.9), "train/NORMAL/image6.jpeg (1.9)"),
    "one_label_per_image": (put(7, "pixels_sha256", sha256_bytes(b"\2")), "image7.jpeg (train/NORMAL/image2.jpeg)"),
    "cells_filled": (put(8, "label", None), "train/NORMAL/image8.jpeg"),
    "no_copies": (put(10, "pixels_sha256", sha256_bytes(b"\0")), "image10.jpeg (train/NORMAL/image0.jpeg)"),
    "patient_known": (put(12, "patient_id", ""), "train/NORMAL/image12.jpeg (patient unknown)"),
    "one_folder_per_patient": (
        lambda table: put(13, "source_folder", "test")(put(13, "patient_id", "person0")(table)),
        "train/NORMAL/image0.jpeg (train + test)",
    ),
    "full_depth": (put(14, "mode", "I;16 of 12 bits"), "train/NORMAL/image14.jpeg (I;16 of 12 bits)"),
    "radiographs": (put(15, "modality", "CT"), "train/PNEUMONIA/image15.jpeg (CT)"),
    "frontal_views": (put(16, "view", "LL"), "train/NORMAL/image16.jpeg (LL)"),
    "chests": (put(17, "body_part", "HAND"), "train/PNEUMONIA/image17.jpeg (HAND)"),
}
CRITICAL = list(FAULTY)[:6]


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Check]:
    records = draw_records(18)
    for plant, _ in FAULTY.values():
        records = plant(records)
    return check(records, tmp_path_factory.mktemp("docs"))


@pytest.mark.parametrize("name", FAULTY)
def test_what_is_wrong_is_critical_or_a_warning_and_has_an_example(faulty: dict[str, Check], name: str) -> None:
    found = faulty[name]
    assert (found.severity, found.success) == ("critical" if name in CRITICAL else "warning", False)
    assert FAULTY[name][1] in str(found)


@pytest.mark.parametrize("name", ["no_copies", "one_folder_per_patient", "patient_known"])
def test_a_warning_counts_what_is_unexpected_once(faulty: dict[str, Check], name: str) -> None:
    assert faulty[name].unexpected == (2 if name == "no_copies" else 1)


def test_the_error_names_everything_critical_with_its_example_and_no_warning(faulty: dict[str, Check]) -> None:
    with pytest.raises(InputError) as error:
        raise_on_critical(list(faulty.values()), Path("docs"))
    for name, (_, example) in FAULTY.items():
        assert (f"{name}: expected" in str(error.value), example in str(error.value)) == (name in CRITICAL,) * 2


@pytest.mark.parametrize(
    ("examples", "plant"),
    [
        (
            {"column_sha256": "found int64", "column_width": "found str", "column_mode": "column mode of str"},
            lambda table: table.assign(sha256=range(10), width="300").drop(columns="mode"),
        ),
        ({"class_share": "found 0"}, lambda table: table[table["label"] == "NORMAL"]),
        ({"class_share": "found 5"}, lambda table: table[table["label"] == "PNEUMONIA"]),
        ({"class_share": "found 5"}, lambda table: table.iloc[[0, 1, 3, 5, 7, 9]]),
        ({"images_present": "found 0"}, lambda table: table.iloc[:0]),
    ],
)
def test_a_table_that_is_wrong_as_a_whole_raises_an_error(
    examples: dict[str, str], plant: Plant, tmp_path: Path
) -> None:
    checks = list(check(plant(draw_records()), tmp_path).values())
    with pytest.raises(InputError) as error:
        raise_on_critical(checks, tmp_path)
    for name, example in examples.items():
        assert f"{name}: expected" in str(error.value) and example in str(error.value)
    assert "Traceback" not in (tmp_path / "index.html").read_text()


def test_images_of_unknown_patients_are_no_patient_in_several_folders(tmp_path: Path) -> None:
    records = put(3, "source_folder", "test")(draw_records()).assign(patient_id="")
    checks = check(records, tmp_path)
    assert checks["one_folder_per_patient"].success
    assert checks["patient_known"].unexpected == 10
    assert len(checks["patient_known"].examples) == 5


def test_whoever_said_that_each_image_is_a_patient_is_not_warned(tmp_path: Path) -> None:
    told = DATA.model_copy(update={"patients": "each_image"})
    records = draw_records().assign(patient_id="")
    checks = {found.name: found for found in check_images(records, make_refused(0), PARAMS, told, tmp_path)}
    assert checks["patient_known"].success is None
    assert "each_image" in checks["patient_known"].observed


def test_a_release_that_lacks_images_is_a_warning(tmp_path: Path) -> None:
    checks = check(draw_records(), tmp_path, source="kaggle")
    raise_on_critical(list(checks.values()), tmp_path)
    assert [name for name, found in checks.items() if not found.success] == ["release_images", "release_pneumonia"]


def test_a_class_without_images_fails_even_where_its_share_may_be_zero(tmp_path: Path) -> None:
    params = PARAMS.model_copy(update={"min_class_share": 0.0})
    records = draw_records()
    for missing in ("NORMAL", "PNEUMONIA"):
        checks = check_images(records[records["label"] != missing], make_refused(0), params, DATA, tmp_path)
        assert [found.name for found in checks if found.success is False] == ["class_share"]


def test_refused_files_fail_only_above_the_bound(tmp_path: Path) -> None:
    raise_on_critical(list(check(draw_records(18), tmp_path, refused=2).values()), tmp_path)
    checks = list(check(draw_records(17), tmp_path, refused=2).values())
    with pytest.raises(InputError, match=r"readable: expected at least 18 of 19 files .*\n +train/NORMAL/bad0.jpeg"):
        raise_on_critical(checks, tmp_path)


@pytest.mark.real_data
@pytest.mark.skipif(not REAL_IMAGES.exists(), reason=f"needs the real images at {REAL_IMAGES}")
def test_the_real_release_passes_with_its_known_warnings(tmp_path: Path) -> None:
    records, refused = scan_images(REAL_IMAGES)
    release = DATA.model_copy(update={"source": "kaggle"})
    checks = {found.name: found for found in check_images(records, refused, PARAMS, release, tmp_path)}
    raise_on_critical(list(checks.values()), tmp_path)
    failed = {name: found.unexpected for name, found in checks.items() if not found.success}
    assert failed == {"no_copies": 32, "one_folder_per_patient": 170}
    assert "30 images have some" in checks["no_copies"].expected
