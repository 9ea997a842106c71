"""The scan describes every file and sets aside, with a reason, what cannot be read."""

import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pictures import encode
from PIL import Image

from pneumonia.core.files import sha256_bytes
from pneumonia.core.tables import DTYPES, REFUSED_DTYPES, count_unknown
from pneumonia.images.decode import digest_pixels
from pneumonia.images.workers import Decoders
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


def test_the_patient_of_an_image_whose_name_states_none_is_unknown(tmp_path: Path):
    names = ["train/NORMAL/scan.jpeg", "test/NORMAL/scan.jpeg", "test/NORMAL/IM-0115-0001.jpeg"]
    records, _ = scan_images(fill(tmp_path, {name: draw_image(9) for name in names}))
    assert records["patient_id"].tolist() == ["IM-0115", "", ""]
    assert count_unknown(records) == 2


def test_images_in_folders_below_a_class_are_read_with_label_and_source_of_the_class(tmp_path: Path):
    names = ["all/NORMAL/a/1/x.png", "all/NORMAL/x.png", "all/PNEUMONIA/a/x.png"]
    records, refused = scan_images(fill(tmp_path, {name: draw_image(9) for name in names} | {"table.csv": b"x"}))
    assert records["path"].tolist() == names
    assert records["label"].tolist() == ["NORMAL", "NORMAL", "PNEUMONIA"]
    assert set(records["source_folder"]) == {"all"}
    assert refused.empty


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


@pytest.mark.parametrize("picture", [NOISE, COLOURED], ids=["grey", "colour"])
def test_the_same_picture_in_other_bytes_has_the_same_digest_of_its_pixels(tmp_path: Path, picture: Image.Image):
    copies = write_copies(picture)
    records, _ = scan_images(fill(tmp_path, {f"all/NORMAL/{name}": copy for name, copy in copies.items()}))
    assert records["sha256"].nunique() == len(set(copies.values()))
    assert records["pixels_sha256"].nunique() == 1


def test_a_pixel_that_differs_by_one_or_another_shape_is_another_picture(tmp_path: Path):
    grey = np.asarray(NOISE).copy()
    grey[0, 0] ^= 1
    planes = {"one": NOISE, "another": Image.fromarray(grey), "turned": NOISE.transpose(Image.Transpose.ROTATE_180)}
    blank = np.zeros((20, 112), np.uint8)
    planes |= {"flat": Image.fromarray(blank), "tall": Image.fromarray(blank.T), "square": NOISE.point(lambda _: 0)}
    records, _ = scan_images(fill(tmp_path, {f"all/NORMAL/{name}": encode(plane) for name, plane in planes.items()}))
    assert records["pixels_sha256"].nunique() == len(planes)


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
            "pixels_sha256": digest_pixels(content),
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
    (folder / "link.jpeg").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.jpeg")
    records, refused = scan_images(tmp_path)
    assert records["path"].tolist() == ["train/NORMAL/good.jpeg"]
    reasons = dict(zip(refused["path"].str.removeprefix("train/NORMAL/"), refused["reason"], strict=True))
    assert "truncated" in reasons.pop("cut.jpeg")
    assert reasons == {
        "empty.jpeg": "empty file",
        "link.jpeg": "cannot be read: No such file or directory",
        "notes.txt": "not a JPEG, PNG, TIFF, WEBP, BMP or DICOM file",
        "pipe.jpeg": "cannot be read: Is a pipe, socket or device",
    }


@pytest.mark.parametrize("files", [{}, {"train/NORMAL/x.jpeg": b""}, {"train/NORMAL/x.jpeg": draw_image(9)}])
def test_both_tables_have_their_columns_and_types_even_when_empty(tmp_path: Path, files: dict[str, bytes]):
    records, refused = scan_images(fill(tmp_path, files))
    assert records.dtypes.astype(str).to_dict() == DTYPES
    assert refused.dtypes.astype(str).to_dict() == REFUSED_DTYPES
    assert len(records) + len(refused) == len(files)
