"""The phantom looks like Kaggle's release to whoever reads it, and only the lungs give the label away."""

import re
from collections import Counter, defaultdict
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from pneumonia import phantom
from pneumonia.errors import InputError
from pneumonia.phantom import draw_phantoms

FILMS = 240
NORMAL = re.compile(r"(?P<patient>(NORMAL2-)?IM-\d{4})-0001(-\d{4})?\.jpeg")
PNEUMONIA = re.compile(r"(?P<patient>person\d+)_(bacteria|virus)_\d+\.jpeg")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    out = tmp_path_factory.mktemp("phantom")
    draw_phantoms(out, FILMS, seed=7)
    return sorted(path for path in out.rglob("*") if path.is_file())


def hash_files(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest() for path in files}


def find_patient(film: Path) -> str:
    match = (NORMAL if film.parent.name == "NORMAL" else PNEUMONIA).fullmatch(film.name)
    assert match, film
    return match["patient"]


def test_same_seed_writes_same_bytes_with_one_thread_or_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for threads in (1, 4):
        monkeypatch.setattr(phantom, "THREADS", threads)
        draw_phantoms(tmp_path / str(threads), 48, seed=1)
    assert hash_files(tmp_path / "1") == hash_files(tmp_path / "4")


def test_another_seed_draws_other_films(tmp_path: Path):
    for seed in (1, 2):
        draw_phantoms(tmp_path / str(seed), 48, seed)
    one, two = (set(hash_files(tmp_path / str(seed)).values()) for seed in (1, 2))
    assert not one & two


def test_draws_exactly_as_many_files_as_asked_for(films: list[Path]):
    assert len(films) == FILMS


def test_every_name_is_one_of_kaggles(films: list[Path]):
    assert all(find_patient(film) for film in films)


@pytest.mark.parametrize("images", [48, 1200])
def test_each_of_the_six_folders_holds_a_film_and_no_name_occurs_twice(images: int):
    paths = [path for _, _, paths in phantom.plan_films(images, seed=3) for path in paths]
    assert {path.rpartition("/")[0] for path in paths} == {
        f"{folder}/{label}" for folder in ("train", "val", "test") for label in ("NORMAL", "PNEUMONIA")
    }
    assert len(set(paths)) == images


def test_folders_have_kaggles_shares():
    films = Counter(path.rpartition("/")[0] for _, _, paths in phantom.plan_films(1200, seed=3) for path in paths)
    assert films["val/NORMAL"] + films["val/PNEUMONIA"] in range(16, 20)
    assert (films["test/NORMAL"] + films["test/PNEUMONIA"]) / 1200 == pytest.approx(0.106, abs=0.01)
    assert films["test/PNEUMONIA"] / films["test/NORMAL"] == pytest.approx(390 / 234, abs=0.15)


def test_pneumonia_is_2_7_times_as_frequent(films: list[Path]):
    labels = Counter(film.parent.name for film in films)
    assert labels["PNEUMONIA"] / labels["NORMAL"] == pytest.approx(2.7, abs=0.15)


@pytest.mark.parametrize("seed", range(5))
def test_few_films_still_come_from_enough_patients_to_split(seed: int):
    patients = Counter(label for label, _ in {key[:2] for key, _, _ in phantom.plan_films(48, seed)})
    assert min(patients.values()) >= 8


def test_too_few_films_to_fill_six_folders_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="8 images leave a folder empty"):
        draw_phantoms(tmp_path, 8, seed=1)


def test_a_few_films_are_copied_and_only_for_the_same_patient_in_the_same_folder(films: list[Path]):
    groups = defaultdict(list)
    for film in films:
        groups[film.read_bytes()].append(film)
    copies = [group for group in groups.values() if len(group) > 1]
    assert 1 <= len(copies) <= 0.01 * FILMS
    assert all(len({(film.parent, find_patient(film)) for film in group}) == 1 for group in copies)


def test_both_labels_have_patients_with_several_films(films: list[Path]):
    per_patient = Counter((film.parent.name, find_patient(film)) for film in films)
    assert {label for (label, _), number in per_patient.items() if number > 1} == {"NORMAL", "PNEUMONIA"}


def test_one_person_in_ten_lies_in_several_folders():
    folders = defaultdict(set)
    for key, kind, paths in phantom.plan_films(4000, seed=7):
        if kind:
            folders[key[:2]].update(path.split("/")[0] for path in paths)
    assert np.mean([len(some) > 1 for some in folders.values()]) == pytest.approx(0.1, abs=0.03)


def test_nothing_but_the_lungs_tells_the_label(films: list[Path]):
    ill = [film.parent.name == "PNEUMONIA" for film in films]
    measured = defaultdict(list)
    for film in films:
        with Image.open(film) as image:
            grey = np.asarray(image.convert("L"))
            measured["is RGB"].append(image.mode == "RGB")
        measured["width"].append(grey.shape[1])
        measured["height"].append(grey.shape[0])
        measured["brightness"].append(grey.mean())
        measured["contrast"].append(grey.std())
        measured["bytes per pixel"].append(film.stat().st_size / grey.size)
    assert set(measured["is RGB"]) == {True, False}
    assert len(set(measured["width"])) > 50
    # 65 normal and 175 ill films: chance alone spreads the AUC by 0.04, so these are four of its deviations.
    for name, values in measured.items():
        assert 0.34 < roc_auc_score(ill, values) < 0.66, name


def test_films_are_landscapes_of_modest_size(films: list[Path]):
    for film in films:
        with Image.open(film) as image:
            assert 200 <= image.width <= 420
            assert 1.09 < image.width / image.height < 1.61
            assert image.mode in ("L", "RGB")
