"""A file name states the patient and the kind of pneumonia, or nothing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from projects import REAL_IMAGES

from pneumonia.core.names import parse_kind, parse_patient, place_image

NAMES = [
    ("person7_bacteria_24.jpeg", "person7", "bacteria"),
    ("person7_virus_6.jpeg", "person7", "virus"),
    ("person1_virus_6_1.jpeg", "person1", "virus"),
    ("person1000_bacteria_2931.jpeg", "person1000", "bacteria"),
    ("IM-0115-0001.jpeg", "IM-0115", None),
    ("IM-0115-0001-0002.jpeg", "IM-0115", None),
    ("NORMAL2-IM-0246-0001.jpeg", "NORMAL2-IM-0246", None),
    ("NORMAL2-IM-0246-0001-0002.jpeg", "NORMAL2-IM-0246", None),
    ("BACTERIA-1008087-0001.jpeg", "1008087", "bacteria"),
    ("VIRUS-1008087-0002.jpeg", "1008087", "virus"),
    ("NORMAL-0012-0001.png", "0012", None),
    ("virus_12.png", None, "virus"),
    ("person7_bacteria_24 (copy).jpeg", None, "bacteria"),
    ("my_person7_bacteria_24.jpeg", None, None),
    ("person7_fungus_1.jpeg", None, None),
    ("IM-0001-0002.dcm", None, None),
    ("person_bacteria_24.jpeg", None, None),
    ("antivirus_12.jpeg", None, None),
    ("virus.jpeg", None, None),
    ("00000001_000.png", "00000001", None),
    ("00030805_012.jpeg", "00030805", None),
    ("20240131_001.png", None, None),
    ("00000001_0001.png", None, None),
    ("12345678.png", None, None),
    ("patient00001_study1_view1_frontal.jpg", "patient00001", None),
    ("patient1_view1.jpg", None, None),
    ("0004cfab-14fd-4e49-80ba-63a80b6bddd6.dcm", None, None),
    ("02aa804e-bde0afdd-112c0b34-7bc16630-4e384014.jpg", None, None),
    ("scan 12.jpeg", None, None),
    ("", None, None),
]


@pytest.mark.parametrize(("name", "patient", "kind"), NAMES)
def test_a_name_states_patient_and_kind_or_nothing(name: str, patient: str | None, kind: str | None):
    assert (parse_patient(name), parse_kind(name)) == (patient, kind)


@settings(derandomize=True, deadline=None)
@given(named=st.sampled_from(NAMES[:-1]), folder=st.sampled_from(["train/PNEUMONIA", "virus_1", "person7_virus_3.png"]))
def test_folders_state_nothing_whatever_their_names(named: tuple[str, str | None, str | None], folder: str):
    name, patient, kind = named
    assert (parse_patient(f"{folder}/{name}"), parse_kind(f"{folder}/{name}")) == (patient, kind)


@pytest.mark.parametrize(
    ("path", "patient"),
    [
        ("patient00001/study1/view1_frontal.jpg", "patient00001"),
        ("CheXpert-v1.0-small/patient64540/study12/view2_lateral.jpg", "patient64540"),
        ("patient00001/study1/cropped.jpg", None),
        ("study1/view1_frontal.jpg", None),
        ("p10/p10000032/s50414267/02aa804e-bde0afdd-112c0b34-7bc16630-4e384014.jpg", "p10000032"),
        ("p10000032/s50414267/02aa804e-bde0afdd-112c0b34-7bc16630-4e384014.dcm", "p10000032"),
        ("p10000032/s50414267/1.jpg", None),
        ("images_001/images/00000001_000.png", "00000001"),
        ("patient 3/scan 12.jpeg", None),
    ],
)
def test_a_release_in_folders_states_the_patient_by_its_folders(path: str, patient: str | None):
    assert parse_patient(path) == parse_patient(f"train/NORMAL/{path}") == patient


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("NORMAL/a.png", "all/NORMAL/a.png"),
        ("train/NORMAL/a.png", "train/NORMAL/a.png"),
        ("./chest_xray/Validation/pneumonia/p 1/A.JPG", "val/PNEUMONIA/p 1/A.JPG"),
        ("/data/normal/test/PNEUMONIA/a.png", "test/PNEUMONIA/a.png"),
        (r"C:\x\train\NORMAL\a.png", "train/NORMAL/a.png"),
        ("train/normal", None),
        ("a.png", None),
        ("", None),
    ],
)
def test_a_path_below_any_folder_states_where_the_file_is_fetched_to(path: str, place: str | None):
    assert place_image(path) == place


@settings(derandomize=True, deadline=None)
@given(person=st.integers(1, 9999), first=st.integers(1, 9999), second=st.integers(1, 9999))
def test_a_person_is_one_patient_with_either_kind_of_pneumonia(person: int, first: int, second: int):
    names = f"person{person}_bacteria_{first}.jpeg", f"person{person}_virus_{second}.jpeg"
    assert {parse_patient(name) for name in names} == {f"person{person}"}


@pytest.mark.real_data
@pytest.mark.skipif(not REAL_IMAGES.exists(), reason=f"needs the real images at {REAL_IMAGES}")
def test_every_real_name_states_a_patient_and_with_pneumonia_a_kind():
    paths = list(REAL_IMAGES.glob("*/*/*"))
    patients = {parse_patient(path.name) for path in paths}
    assert len(paths) == 5_856
    assert None not in patients
    assert sum(patient.startswith("person") for patient in patients if patient) == 1_674
    assert all((parse_kind(path.name) is None) == (path.parent.name == "NORMAL") for path in paths)
