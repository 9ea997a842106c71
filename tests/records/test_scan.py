"""The scan describes every file and sets aside, with a reason, what cannot be read."""

import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pictures import encode
from PIL import Image

from pneumonia.core.files import sha256_bytes
from pneumonia.core.tables import DTYPES, REFUSED_DTYPES, count_unknown
from pneumonia.images.decode import digest_pixels
from pneumonia.images.workers import Decoders
from pneumonia.records.scan import scan_images

Tables = tuple[pd.DataFrame, pd.DataFrame]


def draw_image(grey: int, kind: str = "JPEG") -> bytes:
    plane = np.full((48, 64), grey, np.uint8)
    plane[:, 32:] = 255
    return encode(Image.fromarray(plane), kind)


def fill(raw: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_bytes(content)
    return raw


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56), dtype=np.uint8))
COLOURED = Image.merge("RGB", [NOISE, NOISE.rotate(180), NOISE.transpose(Image.Transpose.FLIP_LEFT_RIGHT)])


def write_copies(picture: Image.Image) -> dict[str, bytes]:
    """Return files that show the same picture in other bytes."""
    jpeg = encode(picture, "JPEG")
    decoded = Image.open(BytesIO(jpeg))
    exif = Image.Exif()
    exif[0x0131] = "a viewer"  # Software
    tag = exif.tobytes()
    return {
        "jpeg": jpeg,
        "a byte appended": jpeg + b"\0",
        "a comment": jpeg[:2] + b"\xff\xfe\x00\x06note" + jpeg[2:],
        "an EXIF tag": jpeg[:2] + b"\xff\xe1" + (len(tag) + 2).to_bytes(2) + tag + jpeg[2:],
        "PNG": encode(decoded),
        "PNG, other compression": encode(decoded, compress_level=0),
        "grey PNG": encode(decoded.convert("L")),
        "PNG of 16 bits": encode(Image.fromarray(np.asarray(decoded.convert("L"), np.uint16) * 257)),
        "PNG with a palette": encode(decoded.convert("L").convert("P")),
    }


COPIES = {"grey": write_copies(NOISE), "colour": write_copies(COLOURED)}
PATIENTS = {
    "test/PNEUMONIA/person7_virus_3.jpeg": "person7",
    "train/PNEUMONIA/person7_bacteria_24.jpeg": "person7",
    "val/PNEUMONIA/person7_bacteria_25.jpeg": "person7",
    "test/NORMAL/IM-0115-0001.jpeg": "IM-0115",
    "test/NORMAL/scan.jpeg": "",
    "train/NORMAL/scan.jpeg": "",
}
BELOW = ["patients/NORMAL/a/1/x.png", "patients/NORMAL/x.png", "patients/PNEUMONIA/a/x.png"]
ODD = NOISE.copy()
ODD.putpixel((0, 0), 1 ^ int(np.asarray(NOISE)[0, 0]))
BLANK = Image.new("L", (112, 20))
TURNED = NOISE.transpose(Image.Transpose.ROTATE_180)
DIFFERENT = [NOISE, ODD, TURNED, BLANK, BLANK.resize((20, 112)), BLANK.resize((56, 40))]
UNREADABLE = {"cut.jpeg": draw_image(9)[:-40], "empty.jpeg": b"", "notes.txt": b"to do"}
RECORD = draw_image(55, "PNG")


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scan one folder for all tests that look at different source folders of it."""
    raw = tmp_path_factory.mktemp("raw")
    fill(raw, dict.fromkeys([*PATIENTS, *BELOW], draw_image(9)) | {"patients/table.csv": b"x"})
    fill(raw, {f"{which}/NORMAL/{name}": copy for which, copies in COPIES.items() for name, copy in copies.items()})
    fill(raw, {f"different/NORMAL/{number}": encode(image) for number, image in enumerate(DIFFERENT)})
    fill(raw, {f"unreadable/NORMAL/{name}": content for name, content in UNREADABLE.items()})
    fill(raw, {"record/NORMAL/IM-0115-0001.jpeg": RECORD})
    (raw / "unreadable/NORMAL/link.jpeg").symlink_to("nowhere")
    os.mkfifo(raw / "unreadable/NORMAL/pipe.jpeg")
    (raw / os.fsdecode(b"unreadable/NORMAL/latin\xf6.jpeg")).write_bytes(RECORD)
    return scan_images(raw)


def choose(table: pd.DataFrame, source_folder: str) -> pd.DataFrame:
    return table[table["path"].str.startswith(f"{source_folder}/")]


def test_a_person_is_one_patient_in_every_folder_and_unknown_where_the_name_states_none(scanned: Tables):
    whose = scanned[0].set_index("path")["patient_id"]
    assert {path: whose[path] for path in PATIENTS} == PATIENTS
    assert count_unknown(scanned[0].query("path in @PATIENTS")) == 2


def test_images_in_folders_below_a_class_are_read_with_label_and_source_of_the_class(scanned: Tables):
    records = choose(scanned[0], "patients")
    assert records["path"].tolist() == BELOW
    assert records["label"].tolist() == ["NORMAL", "NORMAL", "PNEUMONIA"]
    assert set(records["source_folder"]) == {"patients"}
    assert choose(scanned[1], "patients").empty


@pytest.mark.parametrize("picture", COPIES)
def test_the_same_picture_in_other_bytes_has_the_same_digest_of_its_pixels(scanned: Tables, picture: str):
    records = choose(scanned[0], picture)
    assert records["sha256"].nunique() == len(set(COPIES[picture].values()))
    assert records["pixels_sha256"].nunique() == 1


def test_a_pixel_that_differs_by_one_or_another_shape_is_another_picture(scanned: Tables):
    assert choose(scanned[0], "different")["pixels_sha256"].nunique() == len(DIFFERENT)


def test_large_jpegs_are_decoded_a_second_time_only_if_they_may_be_one_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    decoded: list[bytes] = []
    monkeypatch.setattr(Decoders, "digest", lambda _, content: decoded.append(content) or "pixels")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (600, 600), dtype=np.uint8))
    one, other = (encode(image, "JPEG", quality=95) for image in (noise, noise.crop((0, 0, 599, 600))))
    files = {"one": one, "the same file": one, "same": one + b"\0", "of another size": other, "small": draw_image(9)}
    records, _ = scan_images(fill(tmp_path, {f"all/NORMAL/{name}": content for name, content in files.items()}))
    assert sorted(decoded) == sorted([one, one + b"\0"])
    pixels = records.set_index(records["path"].str.removeprefix("all/NORMAL/"))["pixels_sha256"]
    assert pixels["one"] == pixels["the same file"] == pixels["same"] == "pixels"
    assert pixels["of another size"] == sha256_bytes(other)


def test_a_record_describes_the_file_and_where_it_lies(scanned: Tables):
    assert choose(scanned[0], "record").to_dict("records") == [
        {
            "path": "record/NORMAL/IM-0115-0001.jpeg",
            "label": "NORMAL",
            "patient_id": "IM-0115",
            "source_folder": "record",
            "sha256": sha256_bytes(RECORD),
            "pixels_sha256": digest_pixels(RECORD),
            "width": 64,
            "height": 48,
            "mode": "L",
            "contrast": 100.0,
            "modality": "",
            "view": "",
            "body_part": "",
        }
    ]


def test_images_and_refused_files_are_sorted_by_path(scanned: Tables):
    for table in scanned:
        assert table["path"].tolist() == sorted(table["path"])


def test_what_cannot_be_read_is_named_with_a_reason_and_set_aside(scanned: Tables):
    assert choose(scanned[0], "unreadable").empty
    refused = choose(scanned[1], "unreadable")
    reasons = dict(zip(refused["path"].str.removeprefix("unreadable/NORMAL/"), refused["reason"], strict=True))
    assert "truncated" in reasons.pop("cut.jpeg")
    assert reasons == {
        "empty.jpeg": "empty file",
        "latin\\xf6.jpeg": "name is not UTF-8",
        "link.jpeg": "cannot be read: No such file or directory",
        "notes.txt": "not a JPEG, PNG, TIFF, WEBP, BMP or DICOM file",
        "pipe.jpeg": "cannot be read: Is a pipe, socket or device",
    }


@pytest.mark.parametrize("files", [{}, {"train/NORMAL/x.jpeg": b""}])
def test_both_tables_have_their_columns_and_types_even_when_empty(tmp_path: Path, files: dict[str, bytes]):
    records, refused = scan_images(fill(tmp_path, files))
    assert records.dtypes.astype(str).to_dict() == DTYPES
    assert refused.dtypes.astype(str).to_dict() == REFUSED_DTYPES
    assert len(records) + len(refused) == len(files)
