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


@pytest.mark.parametrize(
    ("name", "plant", "example"),
    [
        ("labels_known", put(3, "label", "COVID"), "train/PNEUMONIA/image3.jpeg (COVID)"),
        ("large_enough", put(4, "height", 63), "train/NORMAL/image4.jpeg (63)"),
        ("plausible_aspect", put(5, "width", 801), "train/PNEUMONIA/image5.jpeg (4.005)"),
        ("not_blank", put(6, "contrast", 1.9), "train/NORMAL/image6.jpeg (1.9)"),
        (
            "one_label_per_image",
            put(7, "pixels_sha256", sha256_bytes(b"\2")),
            "image7.jpeg (train/NORMAL/image2.jpeg)",
        ),
        ("cells_filled", put(8, "label", None), "train/NORMAL/image8.jpeg"),
        ("column_sha256", lambda table: table.assign(sha256=range(10)), "found int64"),
        ("column_width", lambda table: table.assign(width="300"), "found str"),
        ("column_mode", lambda table: table.drop(columns="mode"), "column mode of str"),
        ("class_share", lambda table: table[table["label"] == "NORMAL"], "found 0"),
        ("class_share", lambda table: table[table["label"] == "PNEUMONIA"], "found 5"),
        ("class_share", lambda table: table.iloc[[0, 1, 3, 5, 7, 9]], "found 5"),
        ("images_present", lambda table: table.iloc[:0], "found 0"),
    ],
)
def test_a_critical_failure_raises_an_error_with_an_example(
    name: str, plant: Plant, example: str, tmp_path: Path
) -> None:
    checks = list(check(plant(draw_records()), tmp_path).values())
    with pytest.raises(InputError) as error:
        raise_on_critical(checks, tmp_path)
    assert f"{name}: expected" in str(error.value)
    assert example in str(error.value)
    assert "Traceback" not in (tmp_path / "index.html").read_text()


@pytest.mark.parametrize(
    ("name", "plant", "example"),
    [
        ("no_copies", put(2, "pixels_sha256", sha256_bytes(b"\0")), "image2.jpeg (train/NORMAL/image0.jpeg)"),
        ("patient_known", put(4, "patient_id", ""), "train/NORMAL/image4.jpeg (patient unknown)"),
        (
            "one_folder_per_patient",
            lambda table: put(1, "source_folder", "test")(put(1, "patient_id", "person0")(table)),
            "train/NORMAL/image0.jpeg (train + test)",
        ),
    ],
)
def test_a_warning_counts_and_gives_examples_but_does_not_raise(
    name: str, plant: Plant, example: str, tmp_path: Path
) -> None:
    checks = check(plant(draw_records()), tmp_path)
    raise_on_critical(list(checks.values()), tmp_path)
    found = checks[name]
    assert (found.severity, found.success, found.unexpected) == ("warning", False, 1)
    assert example in str(found)


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


@pytest.mark.parametrize("source", ["kaggle", "mendeley"])
def test_a_release_that_lacks_images_is_a_warning(source: str, tmp_path: Path) -> None:
    checks = check(draw_records(), tmp_path, source=source)
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


@pytest.mark.parametrize(
    ("name", "column", "value"),
    [
        ("full_depth", "mode", "I;16 of 12 bits"),
        ("radiographs", "modality", "CT"),
        ("frontal_views", "view", "LL"),
        ("chests", "body_part", "HAND"),
    ],
)
def test_what_is_no_frontal_chest_radiograph_in_full_depth_is_a_warning(
    name: str, column: str, value: str, tmp_path: Path
) -> None:
    found = check(put(3, column, value)(draw_records()), tmp_path)[name]
    assert (found.severity, found.success, found.examples) == (
        "warning",
        False,
        (f"train/PNEUMONIA/image3.jpeg ({value})",),
    )
