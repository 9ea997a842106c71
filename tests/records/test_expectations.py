"""The suite stops at what would spoil a model, and only mentions the rest."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image
from projects import REAL_IMAGES

from pneumonia.core.errors import InputError
from pneumonia.core.files import sha256_bytes
from pneumonia.core.params import DataParams, ValidateParams
from pneumonia.core.tables import DTYPES, REFUSED_DTYPES
from pneumonia.records.expectations import Check, check_images, raise_on_critical
from pneumonia.records.scan import scan_images
from stages.validate import validate

PARAMS = ValidateParams(max_refused_share=0.1, min_side=64, max_aspect=4, min_contrast=2, min_class_share=0.2)
DATA = DataParams(source="phantom", path=Path("unused"), images=48, seed=7)
REAL = REAL_IMAGES

Plant = Callable[[pd.DataFrame], pd.DataFrame]


def draw_records(images: int = 10) -> pd.DataFrame:
    rows = [
        {
            "path": f"train/{label}/image{number}.jpeg",
            "label": label,
            "patient_id": f"person{number}",
            "source_folder": "train",
            "sha256": sha256_bytes(bytes([number])),
            "width": 300,
            "height": 200,
            "mode": "L",
            "contrast": 50.0,
        }
        for number in range(images)
        for label in [("NORMAL", "PNEUMONIA")[number % 2]]
    ]
    return pd.DataFrame(rows, columns=list(DTYPES)).astype(DTYPES)


def refuse(files: int) -> pd.DataFrame:
    rows = [(f"train/NORMAL/bad{number}.jpeg", "empty file") for number in range(files)]
    return pd.DataFrame(rows, columns=list(REFUSED_DTYPES)).astype(REFUSED_DTYPES)


def put(row: int, column: str, value: str | float | None) -> Plant:
    def plant(records: pd.DataFrame) -> pd.DataFrame:
        return records.assign(**{column: records[column].where(records.index != row, value)})

    return plant


def check(records: pd.DataFrame, docs: Path, refused: int = 0, source: str = "phantom") -> dict[str, Check]:
    return {
        found.name: found
        for found in check_images(records, refuse(refused), PARAMS, DATA.model_copy(update={"source": source}), docs)
    }


def test_a_good_table_passes_and_says_what_was_not_checked(tmp_path: Path) -> None:
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
        ("one_label_per_image", put(7, "sha256", sha256_bytes(bytes([2]))), "image7.jpeg (train/NORMAL/image2.jpeg)"),
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
def test_a_critical_fault_stops_and_is_named_with_an_example(
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
        ("no_copies", put(2, "sha256", sha256_bytes(bytes([0]))), "image2.jpeg (train/NORMAL/image0.jpeg)"),
        (
            "one_folder_per_patient",
            lambda table: put(1, "source_folder", "test")(put(1, "patient_id", "person0")(table)),
            "train/NORMAL/image0.jpeg (train + test)",
        ),
    ],
)
def test_a_warning_counts_and_names_but_does_not_stop(name: str, plant: Plant, example: str, tmp_path: Path) -> None:
    checks = check(plant(draw_records()), tmp_path)
    raise_on_critical(list(checks.values()), tmp_path)
    found = checks[name]
    assert (found.severity, found.success, found.unexpected) == ("warning", False, 1)
    assert example in str(found)


@pytest.mark.parametrize("source", ["kaggle", "mendeley"])
def test_a_release_with_images_missing_is_a_warning(source: str, tmp_path: Path) -> None:
    checks = check(draw_records(), tmp_path, source=source)
    raise_on_critical(list(checks.values()), tmp_path)
    assert [name for name, found in checks.items() if not found.success] == ["release_images", "release_pneumonia"]


def test_a_class_without_images_fails_even_where_its_share_may_be_0(tmp_path: Path) -> None:
    params = PARAMS.model_copy(update={"min_class_share": 0.0})
    records = draw_records()
    for missing in ("NORMAL", "PNEUMONIA"):
        checks = check_images(records[records["label"] != missing], refuse(0), params, DATA, tmp_path)
        assert [found.name for found in checks if found.success is False] == ["class_share"]


def test_refused_files_stop_only_above_the_bound(tmp_path: Path) -> None:
    raise_on_critical(list(check(draw_records(18), tmp_path, refused=2).values()), tmp_path)
    assert "train/NORMAL/bad1.jpeg (empty file)" in (tmp_path / "index.html").read_text()
    checks = list(check(draw_records(17), tmp_path, refused=2).values())
    with pytest.raises(InputError, match=r"readable: expected at least 18 of 19 files .*\n +train/NORMAL/bad0.jpeg"):
        raise_on_critical(checks, tmp_path)


def test_data_docs_of_the_phantom_say_that_it_is_synthetic(tmp_path: Path) -> None:
    check(draw_records(), tmp_path)
    assert DATA.notice in (tmp_path / "index.html").read_text()


def test_data_docs_are_the_same_bytes_twice_and_need_no_network(tmp_path: Path) -> None:
    records = put(3, "label", "<b>$x</b>")(draw_records())
    for docs in ("one", "two"):
        check(records, tmp_path / docs, refused=1)
    page = (tmp_path / "one" / "index.html").read_bytes()
    assert page == (tmp_path / "two" / "index.html").read_bytes()
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["index.html"]
    assert b"labels_known (critical)" in page
    for unwanted in (b"://", b"<script", b"<b>", str(tmp_path).encode()):
        assert unwanted not in page


def write_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.linear_gradient("L").rotate(seed).save(path)


def run(raw: Path, out: Path) -> None:
    names: Any = ("records.csv", "refused.csv", "validation.json", "docs")
    validate(raw, *(out / name for name in names), params=PARAMS, data=DATA)


def test_the_stage_writes_the_same_files_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(10):
        write_image(tmp_path / "raw" / "all" / ("NORMAL", "PNEUMONIA")[number % 2] / f"{number}.png", seed=number)
    (tmp_path / "raw/all/NORMAL/broken.jpeg").write_bytes(b"")
    for out in ("one", "two"):
        run(tmp_path / "raw", tmp_path / out)
    assert "10 images, 1 files refused\n  empty file: 1\n" in capsys.readouterr().out
    for name in ("records.csv", "refused.csv", "validation.json", "docs/index.html"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize("files", [{}, {"all/NORMAL/a.jpeg": b"", "all/PNEUMONIA/b.jpeg": b"no image"}])
def test_the_stage_says_so_when_there_is_no_readable_image(files: dict[str, bytes], tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / "raw" / name).parent.mkdir(parents=True)
        (tmp_path / "raw" / name).write_bytes(content)
    with pytest.raises(InputError, match="images_present: expected") as error:
        run(tmp_path / "raw", tmp_path)
    assert all(name in str(error.value) for name in files)
    assert len((tmp_path / "refused.csv").read_text().splitlines()) == 1 + len(files)
    assert (tmp_path / "docs" / "index.html").exists()
    assert not (tmp_path / "records.csv").exists()


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.exists(), reason=f"the real images are not at {REAL}")
def test_the_real_release_passes_with_its_known_warnings(tmp_path: Path) -> None:
    records, refused = scan_images(REAL)
    checks = {
        found.name: found
        for found in check_images(records, refused, PARAMS, DATA.model_copy(update={"source": "kaggle"}), tmp_path)
    }
    raise_on_critical(list(checks.values()), tmp_path)
    failed = {name: found.unexpected for name, found in checks.items() if not found.success}
    assert failed == {"no_copies": 32, "one_folder_per_patient": 170}
    assert "30 images have some" in checks["no_copies"].expected
