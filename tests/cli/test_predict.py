"""The command answers for whatever it is given, and says what it could not read."""

import csv
import json
from io import StringIO
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from PIL import Image
from projects import run

from pneumonia.cli.predict import find_images
from pneumonia.core.errors import InputError
from pneumonia.inference.predictor import Predictor


@pytest.fixture(scope="module")
def images(once: Path) -> list[Path]:
    return sorted((once / "data" / "raw" / "test").rglob("*.jpeg"))


def predict(project: Path, *arguments: str | Path, check: bool = True) -> CompletedProcess[str]:
    return run("python", "-m", "pneumonia", "predict", *map(str, arguments), cwd=project, check=check)


def test_files_folders_and_patterns_are_found_once_each(images: list[Path], tmp_path: Path) -> None:
    folder = images[0].parents[1]
    assert find_images([str(folder)]) == find_images([str(folder / "**" / "*.jpeg"), *map(str, images)]) == images
    note = tmp_path / "note.txt"
    note.write_text("a file that is named is tried whatever it is called")
    assert find_images([str(note)]) == [note]


def test_a_path_that_means_nothing_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "note.txt").touch()
    for nothing in (tmp_path, tmp_path / "*.png", tmp_path / "none.jpeg"):
        with pytest.raises(InputError, match=f"{nothing.name.replace('*', '[*]')} means no image"):
            find_images([str(nothing)])


def test_machines_get_json_with_an_answer_for_every_file_in_order(once: Path, images: list[Path]) -> None:
    said = json.loads(predict(once, images[0].parents[1], "--json").stdout)
    assert said["model"] == "1" and said["notice"] == "Synthetic radiographs: no clinical meaning."
    assert [image["path"] for image in said["images"]] == list(map(str, images))
    predictor = Predictor.read(once / "models" / "finetuned.keras")
    expected = predictor.predict(np.stack([predictor.read_image(image.read_bytes()) for image in images]))
    for image, answer in zip(said["images"], expected, strict=True):
        assert image["probability"] == pytest.approx(answer.probability, abs=1e-6)
        assert (image["decision"], image["novel"]) == (answer.decision, answer.novel)


def test_a_bad_file_is_reported_the_rest_is_done_and_the_exit_status_says_so(
    once: Path, images: list[Path], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jpeg"
    bad.write_bytes(images[0].read_bytes()[:-500])
    done = predict(once, images[0], bad, images[1], "--csv", "--model", "models/finetuned.keras", check=False)
    rows = list(csv.DictReader(StringIO(done.stdout)))
    assert [bool(row["error"]) for row in rows] == [False, True, False]
    assert [bool(row["probability"]) for row in rows] == [True, False, True]
    assert rows[1]["error"].startswith("damaged or truncated")
    assert done.returncode == 1 and "1 of 3 file(s) refused." in done.stderr and "Traceback" not in done.stderr


def test_people_get_a_table_the_model_and_the_warning(once: Path, images: list[Path]) -> None:
    said = predict(once, images[0]).stdout
    assert images[0].name in said and "Model 1, threshold 0.5000. Not a medical device." in said
    assert "Synthetic phantom images" in said


def test_heat_maps_are_kept_as_pictures_of_the_image(once: Path, images: list[Path], tmp_path: Path) -> None:
    predict(once, *images[:2], "--heatmap", tmp_path / "maps", "--json")
    kept = sorted((tmp_path / "maps").iterdir())
    assert [path.stem[6:] for path in kept] == [image.stem for image in images[:2]]
    for path in kept:
        with Image.open(path) as picture:
            assert (picture.size, picture.mode) == ((32, 32), "RGB")


def test_a_model_that_is_not_there_is_an_error_in_three_parts(once: Path, images: list[Path]) -> None:
    for model, said in (("99", "no version '99'"), ("nowhere.keras", "nowhere.keras is no file")):
        failed = predict(once, images[0], "--model", model, check=False)
        assert failed.returncode == 1 and said in failed.stderr and "Remedy: " in failed.stderr
