"""Whose each image is follows from a rule, and where the rule states nothing it is unknown."""

import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from dicoms import NARROW, encode
from image_tables import make_records
from pydicom import uid

from pneumonia.core.errors import InputError
from pneumonia.records.patients import find_patients
from pneumonia.records.pseudonyms import pseudonymise
from pneumonia.records.scan import scan_images


def find(paths: list[str], rule: str, raw: Path = Path()) -> list[str]:
    return find_patients(make_records(path=paths, label=[path.split("/")[1] for path in paths]), raw, rule)


@pytest.mark.parametrize(
    ("rule", "patients"),
    [
        ("auto", ["", "00000001", "", "patient00001"]),
        ("folder", ["", "", "ann", "patient00001"]),
        ("each_image", ["", "", "", ""]),
        (r"^(?P<patient>\w+)/", ["", "", "ann", "patient00001"]),
        (r"(?P<patient>\d+)_\d", ["7", "00000001", "", ""]),
        (r"scan(?P<patient>\d+)?", ["7", "", "", ""]),
        (r"(?P<patient>x*)", ["", "", "", ""]),
        (r"train|NORMAL|(?P<patient>nobody)", ["", "", "", ""]),  # the folders above are not searched
    ],
)
def test_a_path_below_the_class_folder_states_the_patient_or_nothing(rule: str, patients: list[str]):
    names = ["scan7_1.png", "00000001_000.png", "ann/study1/scan.png", "patient00001/study1/view1_frontal.jpg"]
    assert find([f"train/NORMAL/{name}" for name in names], rule) == patients


def test_a_patient_is_one_in_every_split_and_class():
    paths = ["train/NORMAL/ann/1.png", "test/PNEUMONIA/ann/1.png", "test/PNEUMONIA/ann/study/1.png"]
    assert find(paths, "folder") == ["ann"] * 3


PATHS = ["all/NORMAL/1.png", "all/NORMAL/p/2.png", "all/PNEUMONIA/1.png"]


def write(raw: Path, table: str | pd.DataFrame, name: str = "who.csv") -> Path:
    if isinstance(table, str):
        (raw / name).write_text(table, encoding="utf-8")
    else:
        table.to_parquet(raw / name)
    return raw


@pytest.mark.parametrize(
    ("table", "patients"),
    [
        ("path,patient\nNORMAL/1.png,007\nNORMAL/p/2.png,7\nPNEUMONIA/1.png,NA\n", ["007", "7", "NA"]),
        ("path,patient\nall/NORMAL/1.png,a\n", ["a", "", ""]),
        ("path,patient\nC:\\data\\normal\\1.png,a\n/x/Pneumonia/1.png,b\n", ["a", "", "b"]),
        ("path,patient\nCOVID/9.png,c\nNORMAL/1.png, a \nNORMAL/gone.png,b\n", ["a", "", ""]),
        ("\ufeffpath,age,patient,label\nNORMAL/1.png,3,a,Normal\nPNEUMONIA/1.png,4,a,\n", ["a", "", "a"]),
        ("name,patient\n1.png,a\n2.png,b\n", ["a", "b", "a"]),
        ("name,path,patient\n9.png,NORMAL/1.png,a\n", ["a", "", ""]),
        ("path,patient\nNORMAL/1.png,\nPNEUMONIA/1.png,b\n", ["", "", "b"]),
    ],
)
def test_a_table_states_whose_each_image_is_and_the_rest_is_unknown(tmp_path: Path, table: str, patients: list[str]):
    assert find(PATHS, "meta/who.csv", write(tmp_path, table)) == patients


def test_an_umlaut_of_macos_in_a_name_is_that_of_the_table(tmp_path: Path):
    table = "path,patient\nNORMAL/\u00fc.png,a\n"
    assert find(["all/NORMAL/u\u0308.png"], "who.csv", write(tmp_path, table)) == ["a"]


@pytest.mark.parametrize(
    ("owners", "patients"),
    [
        (["007", "7", None], ["007", "7", ""]),
        (np.array([7, 8, 9]), ["7", "8", "9"]),
        (pd.array([7, None, 9], "Int64"), ["7", "", "9"]),
        (pd.Categorical(["a", "b", "a"]), ["a", "b", "a"]),
    ],
)
def test_ids_of_a_parquet_table_are_text_too(tmp_path: Path, owners: Any, patients: list[str]):
    table = pd.DataFrame({"path": PATHS, "patient": owners, "weight": [1.5, 2.5, None]})
    assert find(PATHS, "who.parquet", write(tmp_path, table, "who.parquet")) == patients


@pytest.mark.parametrize(
    ("table", "culprit"),
    [
        ("path,patient\nNORMAL/1.png,a\nall/NORMAL/1.png,b\n", "more than one row for all/NORMAL/1.png"),
        ("path,patient\nNORMAL/1.png,a\nNORMAL/1.png,a\n", "more than one row for all/NORMAL/1.png"),
        ("name,patient\n1.png,a\n1.png,b\n", "more than one row for 1.png"),
        ("path,patient,label\nNORMAL/1.png,a,PNEUMONIA\n", "another label than the folder for all/NORMAL/1.png"),
        ("path,patient,label\nNORMAL/1.png,a,COVID\n", "another label than the folder for all/NORMAL/1.png"),
        ("path;patient\nNORMAL/1.png;a\n", "has the columns path;patient"),
        ("Path,Patient\nNORMAL/1.png,a\n", "has the columns Path, Patient"),
        ("patient\na\n", "has the columns patient"),
        ("path,patient\n1.png,a\n", "names none of the images, such as all/NORMAL/1.png"),
        ("path,patient\n", "names none of the images"),
        ("", "cannot be read"),
        (pd.DataFrame({"path": PATHS[:1], "patient": [7.0]}), "fractions as patient"),
    ],
)
def test_a_table_that_cannot_be_trusted_is_refused_and_what_is_at_fault_named(
    tmp_path: Path, table: str | pd.DataFrame, culprit: str
):
    name = "who.csv" if isinstance(table, str) else "who.parquet"
    with pytest.raises(InputError) as error:
        find(PATHS, name, write(tmp_path, table, name))
    what, expected, remedy = str(error.value).split("\n")
    assert what.startswith(f"{name} ") and culprit in what
    assert "columns path" in expected and "docs/data.md" in remedy


@pytest.mark.parametrize("name", ["who.csv", "who.parquet"])
@pytest.mark.parametrize("content", [b"\xff\xfe\x00PAR1", b"", None])
def test_what_is_no_table_or_missing_is_refused(tmp_path: Path, name: str, content: bytes | None):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name} cannot be read"):
        find(PATHS, name, tmp_path)


class TestDicom:
    """The PatientID of the header, as a pseudonym."""

    @pytest.fixture(autouse=True)
    def key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PNEUMONIA_PATIENT_KEY", "secret")

    def find(self, raw: Path, files: dict[str, bytes]) -> dict[str, str]:
        for name, content in files.items():
            (raw / "all/NORMAL" / name).parent.mkdir(parents=True, exist_ok=True)
            (raw / "all/NORMAL" / name).write_bytes(content)
        return dict(zip(files, find([f"all/NORMAL/{name}" for name in files], "dicom", raw), strict=True))

    def test_images_of_one_id_are_of_one_patient_whatever_else_the_files_say(self, tmp_path: Path):
        plane = np.arange(64, dtype=np.uint8).reshape(8, 8)
        patients = self.find(tmp_path, {
            "1.dcm": encode(plane, **NARROW), "2.dcm": encode(plane, PatientName="Doe^John"),
            "padded.dcm": encode(plane, PatientID="MRN-4711  "), "other.dcm": encode(plane, PatientID="MRN-4712"),
        })  # fmt: skip
        pseudonym = pseudonymise(b"MRN-4711", b"secret")
        assert patients == {name: pseudonym for name in ("1.dcm", "2.dcm", "padded.dcm")} | {
            "other.dcm": pseudonymise(b"MRN-4712", b"secret")
        }

    def test_a_file_without_an_id_and_any_other_image_is_of_an_unknown_patient(self, tmp_path: Path):
        plane = np.arange(64, dtype=np.uint8).reshape(8, 8)
        from dicoms import encode_pillow

        none, empty, blank = (encode(plane, PatientID=value) for value in (None, "", "   "))
        files = {"none.dcm": none, "empty.dcm": empty, "blank.dcm": blank, "1.png": encode_pillow(plane, "PNG")}
        assert set(self.find(tmp_path, files).values()) == {""}

    @pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian])
    def test_the_encoding_of_the_file_changes_no_pseudonym(self, tmp_path: Path, syntax: str):
        from dicoms import make
        from dicoms import write as write_dicom

        plane = np.arange(64, dtype=np.uint8).reshape(8, 8)
        found = self.find(tmp_path, {"1.dcm": write_dicom(make(plane), syntax)})
        assert found == {"1.dcm": pseudonymise(b"MRN-4711", b"secret")}

    def test_no_id_gets_into_what_is_written_or_printed(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
        plane = np.arange(64, dtype=np.uint8).reshape(8, 8)
        odd = encode(plane).replace(b"MRN-4711", b"MRN\xff4711")  # of no character set
        long = encode(plane, PatientID="MRN-4711" * 4)
        self.find(tmp_path, {"1.dcm": encode(plane), "odd.dcm": odd, "long.dcm": long})
        records, refused = scan_images(tmp_path, "dicom")
        assert len(set(records["patient_id"]) - {""}) == 3
        assert "MRN" not in f"{records.to_csv()}{refused.to_csv()}" + "".join(capfd.readouterr())

    def test_an_error_about_the_key_names_no_id(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.delenv("PNEUMONIA_PATIENT_KEY")
        monkeypatch.chdir(tmp_path)
        (tmp_path / ".patient_key").touch()
        with pytest.raises(InputError) as error:
            self.find(tmp_path / "raw", {"1.dcm": encode(np.arange(64, dtype=np.uint8).reshape(8, 8))})
        assert "MRN" not in "".join(traceback.format_exception(error.value))
