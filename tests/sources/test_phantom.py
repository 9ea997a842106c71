"""The phantom is laid out like Kaggle's release, and only the lungs give the label away."""

import re
from collections import Counter, defaultdict
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from pneumonia.core.errors import InputError
from pneumonia.sources import phantom
from pneumonia.sources.phantom import draw_phantoms

IMAGES = 160
NORMAL = re.compile(r"(?P<patient>(NORMAL2-)?IM-\d{4})-0001(-\d{4})?\.jpeg")
PNEUMONIA = re.compile(r"(?P<patient>person\d+)_(bacteria|virus)_\d+\.jpeg")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    out = tmp_path_factory.mktemp("phantom")
    draw_phantoms(out, IMAGES, seed=7)
    return sorted(path for path in out.rglob("*") if path.is_file())


def hash_files(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest() for path in files}


def find_patient(image: Path) -> str:
    match = (NORMAL if image.parent.name == "NORMAL" else PNEUMONIA).fullmatch(image.name)
    assert match, image
    return match["patient"]


def test_the_same_seed_writes_the_same_bytes_with_any_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for threads in (1, 4):
        monkeypatch.setattr(phantom, "THREADS", threads)
        draw_phantoms(tmp_path / str(threads), 48, seed=1)
    assert hash_files(tmp_path / "1") == hash_files(tmp_path / "4")


def test_another_seed_draws_another_image_of_the_same_plan(tmp_path: Path):
    for seed in (1, 2):
        phantom.write_image(tmp_path, seed, ((0, 0, 0), "", [f"{seed}.jpeg"]))
    assert (tmp_path / "1.jpeg").read_bytes() != (tmp_path / "2.jpeg").read_bytes()


def test_it_draws_exactly_the_requested_number_of_files(images: list[Path]):
    assert len(images) == IMAGES


def test_every_name_follows_kaggles_pattern(images: list[Path]):
    assert all(find_patient(image) for image in images)


@pytest.mark.parametrize("images", [48, 1200])
def test_all_six_folders_hold_images_and_every_name_is_unique(images: int):
    paths = [path for _, _, paths in phantom.plan_images(images, seed=3) for path in paths]
    assert {path.rpartition("/")[0] for path in paths} == {
        f"{folder}/{label}" for folder in ("train", "val", "test") for label in ("NORMAL", "PNEUMONIA")
    }
    assert len(set(paths)) == images


def test_folders_have_kaggles_shares():
    images = Counter(path.rpartition("/")[0] for _, _, paths in phantom.plan_images(1200, seed=3) for path in paths)
    assert images["val/NORMAL"] + images["val/PNEUMONIA"] in range(16, 20)
    assert (images["test/NORMAL"] + images["test/PNEUMONIA"]) / 1200 == pytest.approx(0.106, abs=0.01)
    assert images["test/PNEUMONIA"] / images["test/NORMAL"] == pytest.approx(390 / 234, abs=0.15)


def test_pneumonia_is_2_7_times_as_frequent(images: list[Path]):
    labels = Counter(image.parent.name for image in images)
    assert labels["PNEUMONIA"] / labels["NORMAL"] == pytest.approx(2.7, abs=0.15)


@pytest.mark.parametrize("seed", range(5))
def test_even_few_images_come_from_enough_patients_to_split(seed: int):
    patients = Counter(label for label, _ in {key[:2] for key, _, _ in phantom.plan_images(48, seed)})
    assert min(patients.values()) >= 8


def test_too_few_images_to_fill_six_folders_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="8 images leave a folder empty"):
        draw_phantoms(tmp_path, 8, seed=1)


def test_a_few_files_are_copies_within_one_patient_and_folder(images: list[Path]):
    groups = defaultdict(list)
    for image in images:
        groups[image.read_bytes()].append(image)
    copies = [group for group in groups.values() if len(group) > 1]
    assert 1 <= len(copies) <= 0.01 * IMAGES
    assert all(len({(image.parent, find_patient(image)) for image in group}) == 1 for group in copies)


def test_both_labels_have_patients_with_several_images(images: list[Path]):
    per_patient = Counter((image.parent.name, find_patient(image)) for image in images)
    assert {label for (label, _), number in per_patient.items() if number > 1} == {"NORMAL", "PNEUMONIA"}


def test_one_person_in_ten_lies_in_several_folders():
    folders = defaultdict(set)
    for key, kind, paths in phantom.plan_images(4000, seed=7):
        if kind:
            folders[key[:2]].update(path.split("/")[0] for path in paths)
    assert np.mean([len(some) > 1 for some in folders.values()]) == pytest.approx(0.1, abs=0.03)


def test_size_exposure_and_format_do_not_give_the_label_away(images: list[Path]):
    ill = [image.parent.name == "PNEUMONIA" for image in images]
    measured = defaultdict(list)
    for image in images:
        with Image.open(image) as opened:
            grey = np.asarray(opened.convert("L"))
            measured["is RGB"].append(opened.mode == "RGB")
        measured["width"].append(grey.shape[1])
        measured["height"].append(grey.shape[0])
        measured["brightness"].append(grey.mean())
        measured["contrast"].append(grey.std())
        measured["bytes per pixel"].append(image.stat().st_size / grey.size)
    assert set(measured["is RGB"]) == {True, False}
    assert len(set(measured["width"])) > 50
    # Of 43 normal and 117 ill images the AUC has a standard deviation of 0.05 by chance: these bounds are four of them.
    for name, values in measured.items():
        assert 0.3 < roc_auc_score(ill, values) < 0.7, name


def test_images_are_landscapes_of_modest_size(images: list[Path]):
    for image in images:
        with Image.open(image) as opened:
            assert 200 <= opened.width <= 420
            assert 1.09 < opened.width / opened.height < 1.61
            assert opened.mode in ("L", "RGB")
