"""The scan describes every file and sets aside, with a reason, what cannot be read."""

import os
from pathlib import Path

import numpy as np
import pytest
from pictures import encode
from PIL import Image

from pneumonia.core.files import sha256_bytes
from pneumonia.core.tables import DTYPES, REFUSED_DTYPES
from pneumonia.records.merge import count_unnamed
from pneumonia.records.scan import scan_images


def draw_image(grey: int, kind: str = "JPEG") -> bytes:
    plane = np.full((48, 64), grey, np.uint8)
    plane[:, 32:] = 255
    return encode(Image.fromarray(plane), kind)


def fill(raw: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_bytes(content)
    return raw


def test_a_person_is_one_patient_in_every_folder_and_with_either_kind_of_pneumonia(tmp_path: Path):
    names = [
        "train/PNEUMONIA/person7_bacteria_24.jpeg",
        "test/PNEUMONIA/person7_virus_3.jpeg",
        "val/PNEUMONIA/person7_bacteria_25.jpeg",
    ]
    records, _ = scan_images(fill(tmp_path, {name: draw_image(9) for name in names}))
    assert records["patient_id"].tolist() == ["person7"] * 3


def test_an_image_whose_name_states_no_patient_is_a_patient_of_its_own(tmp_path: Path):
    names = ["train/NORMAL/scan.jpeg", "test/NORMAL/scan.jpeg", "test/NORMAL/IM-0115-0001.jpeg"]
    records, _ = scan_images(fill(tmp_path, {name: draw_image(9) for name in names}))
    assert records["patient_id"].nunique() == 3
    assert count_unnamed(records) == 2


def test_a_record_describes_the_file_and_where_it_lies(tmp_path: Path):
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
            "modality": "",
            "view": "",
            "body_part": "",
        }
    ]


def test_images_and_refused_files_are_sorted_by_path(tmp_path: Path):
    folders = ["train/PNEUMONIA", "test/NORMAL", "val/PNEUMONIA", "train/NORMAL"]
    images = {f"{folder}/{name}.jpeg": draw_image(9) for folder in folders for name in ("b", "a10", "a9", "A")}
    broken = {f"{folder}/{name}.jpeg": b"x" for folder in folders for name in ("z", "broken")}
    records, refused = scan_images(fill(tmp_path, images | broken))
    assert records["path"].tolist() == sorted(images)
    assert refused["path"].tolist() == sorted(broken)


def test_what_cannot_be_read_is_named_with_a_reason_and_set_aside(tmp_path: Path):
    image = draw_image(9)
    folder = fill(tmp_path, {"train/NORMAL/good.jpeg": image}) / "train/NORMAL"
    for name, content in {"cut.jpeg": image[:-40], "empty.jpeg": b"", "notes.txt": b"to do"}.items():
        (folder / name).write_bytes(content)
    (folder / "folder.dcm").mkdir()
    (folder / "link.jpeg").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.jpeg")
    records, refused = scan_images(tmp_path)
    assert records["path"].tolist() == ["train/NORMAL/good.jpeg"]
    reasons = dict(zip(refused["path"].str.removeprefix("train/NORMAL/"), refused["reason"], strict=True))
    assert "truncated" in reasons.pop("cut.jpeg")
    assert reasons == {
        "empty.jpeg": "empty file",
        "folder.dcm": "cannot be read: Is a directory",
        "link.jpeg": "cannot be read: No such file or directory",
        "notes.txt": "not a JPEG, PNG, TIFF, WEBP, BMP or DICOM file",
        "pipe.jpeg": "cannot be read: Is a pipe",
    }


@pytest.mark.parametrize("files", [{}, {"train/NORMAL/x.jpeg": b""}, {"train/NORMAL/x.jpeg": draw_image(9)}])
def test_both_tables_have_their_columns_and_types_even_when_empty(tmp_path: Path, files: dict[str, bytes]):
    records, refused = scan_images(fill(tmp_path, files))
    assert records.dtypes.astype(str).to_dict() == DTYPES
    assert refused.dtypes.astype(str).to_dict() == REFUSED_DTYPES
    assert len(records) + len(refused) == len(files)
