"""The table of images says of every file whose it is, and loses nothing on the way to disk and back."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from projects import REAL_IMAGES

from pneumonia.core.errors import InputError
from pneumonia.core.files import sha256_bytes
from pneumonia.core.names import parse_patient
from pneumonia.core.tables import DTYPES, REFUSED_DTYPES, count_images, read_records, read_table, write_table
from pneumonia.records.merge import count_unnamed, merge_folders
from pneumonia.records.scan import scan_images


def draw_image(grey: int, kind: str = "JPEG") -> bytes:
    buffer = BytesIO()
    plane = np.full((48, 64), grey, np.uint8)
    plane[:, 32:] = 255
    Image.fromarray(plane).save(buffer, kind)
    return buffer.getvalue()


def fill(raw: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_bytes(content)
    return raw


def make_records(**columns: list[str]) -> pd.DataFrame:
    """Return records with the given columns and something plausible in the others."""
    rows = len(next(iter(columns.values())))
    made = {
        "path": [f"train/NORMAL/image{row}.jpeg" for row in range(rows)],
        "label": "NORMAL",
        "patient_id": [f"person{row}" for row in range(rows)],
        "source_folder": "train",
        "sha256": [sha256_bytes(bytes([row])) for row in range(rows)],
        "width": 300,
        "height": 200,
        "mode": "L",
        "contrast": 50.125,
    }
    return pd.DataFrame(made | columns).astype(DTYPES)


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("person7_bacteria_24.jpeg", "person7"),
        ("person7_virus_6.jpeg", "person7"),
        ("person1_virus_6_1.jpeg", "person1"),
        ("person1000_bacteria_2931.jpeg", "person1000"),
        ("IM-0115-0001.jpeg", "IM-0115"),
        ("IM-0115-0001-0002.jpeg", "IM-0115"),
        ("NORMAL2-IM-0246-0001.jpeg", "NORMAL2-IM-0246"),
        ("NORMAL2-IM-0246-0001-0002.jpeg", "NORMAL2-IM-0246"),
        ("BACTERIA-1008087-0001.jpeg", "1008087"),
        ("VIRUS-1008087-0002.jpeg", "1008087"),
        ("NORMAL-0012-0001.png", "0012"),
        ("scan 12.jpeg", None),
        ("person_bacteria_24.jpeg", None),
        ("my_person7_bacteria_24.jpeg", None),
        ("person7_bacteria_24 (copy).jpeg", None),
        ("", None),
    ],
)
def test_the_name_of_a_image_tells_its_patient(name: str, patient: str | None):
    assert parse_patient(name) == patient


@pytest.mark.real_data
@pytest.mark.skipif(not REAL_IMAGES.exists(), reason=f"the real images are not at {REAL_IMAGES}")
def test_every_real_image_has_a_patient_by_its_name():
    names = [path.name for path in REAL_IMAGES.glob("*/*/*")]
    patients = {parse_patient(name) for name in names}
    assert len(names) == 5_856
    assert None not in patients
    assert sum(patient.startswith("person") for patient in patients if patient) == 1_674


def test_a_person_is_one_patient_in_every_folder_and_under_both_subtypes(tmp_path: Path):
    names = [
        "train/PNEUMONIA/person7_bacteria_24.jpeg",
        "test/PNEUMONIA/person7_virus_3.jpeg",
        "val/PNEUMONIA/person7_bacteria_25.jpeg",
    ]
    records, _ = scan_images(fill(tmp_path, {name: draw_image(9) for name in names}))
    assert records["patient_id"].tolist() == ["person7"] * 3


def test_a_image_of_unknown_name_is_a_patient_of_its_own_and_counted(tmp_path: Path):
    names = ["train/NORMAL/scan.jpeg", "test/NORMAL/scan.jpeg", "test/NORMAL/IM-0115-0001.jpeg"]
    records, _ = scan_images(fill(tmp_path, {name: draw_image(9) for name in names}))
    assert records["patient_id"].nunique() == 3
    assert count_unnamed(records) == 2


def test_a_record_says_what_the_file_holds_and_where_it_lies(tmp_path: Path):
    content = draw_image(55, "PNG")
    records, _ = scan_images(fill(tmp_path, {"val/NORMAL/IM-0115-0001.jpeg": content}))
    assert records.to_dict("records") == [
        {
            "path": "val/NORMAL/IM-0115-0001.jpeg",
            "label": "NORMAL",
            "patient_id": "IM-0115",
            "source_folder": "val",
            "sha256": sha256_bytes(content),
            "width": 64,
            "height": 48,
            "mode": "L",
            "contrast": 100.0,
        }
    ]
    assert records.dtypes.astype(str).to_dict() == DTYPES


def test_images_and_refused_files_are_sorted_by_path(tmp_path: Path):
    folders = ["train/PNEUMONIA", "test/NORMAL", "val/PNEUMONIA", "train/NORMAL"]
    images = {f"{folder}/{name}.jpeg": draw_image(9) for folder in folders for name in ("b", "a10", "a9", "A")}
    broken = {f"{folder}/{name}.jpeg": b"x" for folder in folders for name in ("z", "broken")}
    records, refused = scan_images(fill(tmp_path, images | broken))
    assert records["path"].tolist() == sorted(images)
    assert refused["path"].tolist() == sorted(broken)


def test_refused_files_are_named_with_a_reason_and_set_aside(tmp_path: Path):
    image = draw_image(9)
    files = {"cut.jpeg": image[:-40], "empty.jpeg": b"", "good.jpeg": image, "notes.txt": b"to do"}
    records, refused = scan_images(fill(tmp_path, {f"train/NORMAL/{name}": content for name, content in files.items()}))
    assert records["path"].tolist() == ["train/NORMAL/good.jpeg"]
    reasons = dict(zip(refused["path"].str.removeprefix("train/NORMAL/"), refused["reason"], strict=True))
    assert reasons.keys() == {"cut.jpeg", "empty.jpeg", "notes.txt"}
    assert "truncated" in reasons["cut.jpeg"]
    assert reasons["empty.jpeg"] == "empty file"
    assert reasons["notes.txt"] == "not a JPEG, PNG or DICOM file"


@pytest.mark.parametrize("files", [{}, {"train/NORMAL/x.jpeg": b""}, {"train/NORMAL/x.jpeg": draw_image(9)}])
def test_both_tables_have_their_columns_and_types_whatever_there_is(tmp_path: Path, files: dict[str, bytes]):
    records, refused = scan_images(fill(tmp_path, files))
    assert records.dtypes.astype(str).to_dict() == DTYPES
    assert refused.dtypes.astype(str).to_dict() == REFUSED_DTYPES
    assert len(records) + len(refused) == len(files)


def test_merging_drops_byte_identical_files_only_when_told():
    records = make_records(path=["a", "b", "c"], sha256=["1", "2", "1"])
    assert merge_folders(records, drop_duplicates=True)["path"].tolist() == ["a", "b"]
    assert merge_folders(records, drop_duplicates=False)["path"].tolist() == ["a", "b", "c"]


def test_merging_keeps_the_folder_that_each_image_comes_from():
    records = make_records(path=["b", "a", "c"], source_folder=["train", "test", "val"])
    assert merge_folders(records, drop_duplicates=True)["source_folder"].tolist() == ["test", "train", "val"]


@settings(derandomize=True, max_examples=20, deadline=None)
@given(order=st.permutations(range(6)), drop=st.booleans())
def test_merging_forgets_the_order_of_the_rows(order: list[int], drop: bool):
    records = make_records(sha256=["1", "2", "1", "3", "2", "4"])
    pd.testing.assert_frame_equal(merge_folders(records.iloc[order], drop), merge_folders(records, drop))


def test_images_are_counted_per_class_with_totals():
    records = make_records(source_folder=["train", "train", "val"], label=["NORMAL", "PNEUMONIA", "PNEUMONIA"])
    counts = count_images(records, by="source_folder")
    assert counts.loc["train"].to_dict() == {"NORMAL": 1, "PNEUMONIA": 1, "all": 2}
    assert counts.loc["all"].to_dict() == {"NORMAL": 1, "PNEUMONIA": 2, "all": 3}


def test_a_table_read_again_is_the_table_that_was_written(tmp_path: Path):
    records = make_records(
        path=["train/NORMAL/a, b.jpeg", 'train/NORMAL/"x".jpeg', "train/NORMAL/Lungenübersicht.jpeg"],
        patient_id=["0012", "1008087", "1e5"],
    )
    write_table(records, tmp_path / "records.csv")
    pd.testing.assert_frame_equal(read_records(tmp_path / "records.csv"), records)


@pytest.mark.parametrize("word", ["NA", "null", "nan", "None", "", "True", "007"])
def test_no_name_is_taken_for_a_missing_value_or_a_number(tmp_path: Path, word: str):
    write_table(make_records(patient_id=[word], path=[word]), tmp_path / "records.csv")
    read = read_records(tmp_path / "records.csv")
    assert (read["patient_id"][0], read["path"][0]) == (word, word)


def test_the_split_comes_along_when_the_table_has_one(tmp_path: Path):
    write_table(make_records(path=["a", "b"]).assign(split=["train", "val"]), tmp_path / "split.csv")
    assert read_records(tmp_path / "split.csv")["split"].tolist() == ["train", "val"]


@pytest.mark.parametrize("column", list(DTYPES))
def test_a_table_without_a_column_is_refused_by_its_name(tmp_path: Path, column: str):
    write_table(make_records(path=["a"]).drop(columns=column), tmp_path / "records.csv")
    with pytest.raises(InputError, match=rf"records\.csv is no table of this project(.|\n)*{column}"):
        read_records(tmp_path / "records.csv")


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe0", b"path\nx\n"])
def test_what_is_no_table_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "refused.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"refused\.csv is no table of this project"):
        read_table(tmp_path / "refused.csv", REFUSED_DTYPES)


def test_a_word_in_a_column_of_numbers_is_refused(tmp_path: Path):
    write_table(make_records(path=["a"]).astype({"width": "str"}).assign(width="wide"), tmp_path / "records.csv")
    with pytest.raises(InputError, match="wide"):
        read_records(tmp_path / "records.csv")


def test_a_table_that_cannot_be_written_leaves_the_old_one(tmp_path: Path):
    path = tmp_path / "records.csv"
    path.write_text("old")
    unwritable = pd.DataFrame({"path": [*(["fine"] * 1000), "\udce9.jpeg"]}, dtype=object)  # a name that is no UTF-8
    with pytest.raises(UnicodeEncodeError):
        write_table(unwritable, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
