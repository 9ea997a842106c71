"""A table is the same after it was written and read, and what is no such table is refused."""

import csv
from pathlib import Path

import pandas as pd
import pytest
from image_tables import make_records
from names import TEXT

from pneumonia.core.errors import InputError
from pneumonia.core.tables import DTYPES, REFUSED_DTYPES, read_records, read_table, write_table


def test_a_table_read_back_equals_the_one_written(tmp_path: Path):
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


@pytest.mark.parametrize("name", ["plain", "with\rreturn"])  # for which every cell and column is quoted
def test_the_split_is_read_where_the_table_has_one(tmp_path: Path, name: str):
    write_table(make_records(path=[name, "other"]).assign(split=["train", "val"]), tmp_path / "splits.csv")
    assert read_records(tmp_path / "splits.csv")["split"].tolist() == ["train", "val"]


@pytest.mark.parametrize("column", list(DTYPES))
def test_a_table_that_lacks_a_column_is_refused_and_the_column_named(tmp_path: Path, column: str):
    write_table(make_records().drop(columns=column), tmp_path / "records.csv")
    with pytest.raises(InputError, match=rf"records\.csv is not a table of this pipeline(.|\n)*{column}"):
        read_records(tmp_path / "records.csv")


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe0", b"path\nx\n"])
def test_any_other_file_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "refused.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"refused\.csv is not a table of this pipeline"):
        read_table(tmp_path / "refused.csv", REFUSED_DTYPES)


def test_a_word_in_a_column_of_numbers_is_refused(tmp_path: Path):
    write_table(make_records().astype({"width": "str"}).assign(width="wide"), tmp_path / "records.csv")
    with pytest.raises(InputError, match="wide"):
        read_records(tmp_path / "records.csv")


def test_a_table_that_cannot_be_written_leaves_the_old_one(tmp_path: Path):
    path = tmp_path / "records.csv"
    path.write_text("old")
    unwritable = pd.DataFrame({"path": [*(["fine"] * 1000), "\udce9.jpeg"]}, dtype=object)  # a name that is not UTF-8
    with pytest.raises(UnicodeEncodeError):
        write_table(unwritable, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_any_name_is_read_back_by_pandas_and_by_python(tmp_path: Path):
    write_table(make_records(path=TEXT), tmp_path / "records.csv")
    assert read_records(tmp_path / "records.csv")["path"].tolist() == TEXT
    with (tmp_path / "records.csv").open(newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == TEXT
