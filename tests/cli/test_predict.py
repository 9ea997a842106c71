"""The command scores whatever it is given, and names what it cannot read."""

import csv
import json
import os
import signal
from collections.abc import Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import numpy as np
import pandas as pd
import pytest
from names import NASTY
from PIL import Image
from projects import run

from pneumonia import __main__
from pneumonia.cli.images import find_images
from pneumonia.cli.main import main
from pneumonia.cli.predict import LONGEST, name_heatmap, score_files
from pneumonia.core.errors import InputError
from pneumonia.core.paths import to_text
from pneumonia.inference.predictor import Predictor

NOTICES = ("Not a medical device.", "Synthetic radiographs: no clinical meaning.")


@pytest.fixture(scope="module")
def images(once: Path) -> list[Path]:
    return sorted((once / "data" / "raw" / "test").rglob("*.jpeg"))


@pytest.fixture(scope="module")
def predictor(once: Path) -> Predictor:
    return Predictor.read(once / "models" / "finetuned.keras", "1")


@pytest.fixture
def in_project(once: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in a finished project."""
    monkeypatch.chdir(once)
    yield
    mlflow.set_tracking_uri(None)  # pyright: ignore[reportArgumentType]


@pytest.fixture
def as_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in tmp_path without root's right to read everything."""
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o777)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)


def add_unreadable(folder: Path) -> set[str]:
    """Put what looks like an image and cannot be read into a folder, and return the names."""
    (folder / "folder.dcm").mkdir()
    (folder / "dangling.jpeg").symlink_to("nowhere")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "faulty.jpg").symlink_to("/proc/self/mem")  # reading it is an input/output error
    os.mkfifo(folder / "pipe.jpeg")
    return {"folder.dcm", "dangling.jpeg", "loop.png", "faulty.jpg", "pipe.jpeg"}


def test_files_folders_and_patterns_are_found_once_each(images: list[Path], tmp_path: Path) -> None:
    folder = images[0].parents[1]
    assert find_images([str(folder)])[0] == find_images([str(folder / "**" / "*.jpeg"), *map(str, images)])[0] == images
    note = tmp_path / "note.txt"
    note.write_text("a file named in full is tried whatever its suffix")
    assert find_images([str(note)]) == ([note], [])


def test_a_path_that_matches_nothing_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "note.txt").touch()
    for nothing in (tmp_path, tmp_path / "*.png", tmp_path / "none.jpeg"):
        with pytest.raises(InputError, match=f"{nothing.name.replace('*', '[*]')} matches no image"):
            find_images([str(nothing)])


@pytest.mark.parametrize("given", [".", "*", "each"])
def test_an_input_that_cannot_be_read_is_a_row_with_its_error_and_the_others_are_scored(
    predictor: Predictor, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.chdir(tmp_path)
    unreadable = add_unreadable(tmp_path)
    for image in images:
        (tmp_path / image.name).symlink_to(image)
    found = find_images([*unreadable, *(image.name for image in images)] if given == "each" else [given])[0]
    rows = {row["path"]: row for row in score_files(predictor, found)}
    assert rows.keys() == unreadable | {image.name for image in images}
    assert all(rows[name]["error"].startswith("cannot be read: ") for name in unreadable)
    assert all(rows[name]["probability"] is None for name in unreadable)
    assert all(rows[image.name]["error"] is None and rows[image.name]["probability"] for image in images)


def test_a_file_that_vanishes_after_it_was_found_is_a_row_with_its_error(
    predictor: Predictor, images: list[Path], tmp_path: Path
) -> None:
    gone = tmp_path / "gone.jpeg"
    first, missing, last = score_files(predictor, find_images(list(map(str, (images[0], gone, images[1]))))[0])
    assert missing["error"] == "cannot be read: No such file or directory"
    assert first["error"] is None and last["error"] is None


@pytest.mark.usefixtures("as_nobody")
def test_files_and_folders_without_permission_are_rows_with_their_error(predictor: Predictor) -> None:
    Path("scans/locked").mkdir(parents=True)
    Path("scans/secret.jpeg").touch()
    for path in ("scans/locked", "scans/secret.jpeg"):
        Path(path).chmod(0)
    rows = score_files(predictor, find_images(["scans"])[0])
    denied = "cannot be read: Permission denied"
    assert [(row["path"], row["error"]) for row in rows] == [("scans/locked", denied), ("scans/secret.jpeg", denied)]


class Printed(NamedTuple):
    """What one call of the command left."""

    out: str
    err: str
    status: Any


@pytest.fixture(scope="module")
def scans(images: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of images with nasty names, a damaged one, and five things that cannot be read."""
    folder = tmp_path_factory.mktemp("scans")
    for name in NASTY:
        (folder / name).symlink_to(images[0])
    (folder / "damaged.jpeg").write_bytes(images[0].read_bytes()[:-500])
    add_unreadable(folder)
    return folder


@pytest.fixture(scope="module")
def printed(once: Path, scans: Path) -> dict[str, Printed]:
    """Run the command once in each format."""
    left: dict[str, Printed] = {}
    for output in ("table", "csv", "json"):
        out, err = TextIOWrapper(BytesIO(), "utf-8"), StringIO()
        command = ["predict", str(scans), "--model", "models/finetuned.keras", f"--{output}"]
        with chdir(once), redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as stopped:
            main(command[:-1] if output == "table" else command)
        left[output] = Printed(out.buffer.getvalue().decode(), err.getvalue(), stopped.value.code)  # pyright: ignore
    return left


def test_any_name_is_read_back_from_csv(scans: Path, printed: dict[str, Printed]) -> None:
    expected = {to_text(path) for path in scans.iterdir()}
    for keep_default_na in (True, False):
        table = pd.read_csv(BytesIO(printed["csv"].out.encode()), keep_default_na=keep_default_na)
        assert set(table["path"]) == expected
    assert {row["path"] for row in csv.DictReader(StringIO(printed["csv"].out, newline=""))} == expected


def test_any_name_is_read_back_from_json(scans: Path, printed: dict[str, Printed]) -> None:
    rows = json.loads(printed["json"].out)["images"]
    assert {row["path"] for row in rows} == {to_text(path) for path in scans.iterdir()}


def test_any_name_is_one_line_of_the_table_that_moves_no_cursor(scans: Path, printed: dict[str, Printed]) -> None:
    lines = printed["table"].out.splitlines()
    assert len(lines) == 1 + len(list(scans.iterdir())) + 2 and not any("\x1b" in line for line in lines)


def test_people_get_a_table_with_the_model_and_the_notice(printed: dict[str, Printed]) -> None:
    assert "latin\\xf6.jpeg" in printed["table"].out
    assert "Model models/finetuned.keras, threshold " in printed["table"].out
    assert all(notice in printed["table"].out for notice in NOTICES)


def test_csv_has_the_answers_alone_and_the_notice_goes_to_standard_error(printed: dict[str, Printed]) -> None:
    rows = {Path(row["path"]).name: row for row in csv.DictReader(StringIO(printed["csv"].out, newline=""))}
    assert rows["damaged.jpeg"]["error"].startswith("damaged or truncated") and not rows["damaged.jpeg"]["probability"]
    assert rows["$x$.jpeg"]["probability"] and not rows["$x$.jpeg"]["error"]
    assert all(notice in printed["csv"].err for notice in NOTICES)


@pytest.mark.parametrize("output", ["table", "csv", "json"])
def test_the_exit_status_tells_of_a_refused_file(printed: dict[str, Printed], output: str) -> None:
    assert printed[output].status == 1
    assert f"6 of {len(NASTY) + 6} file(s) refused or" in printed[output].err


class Interrupted(StringIO):
    """Standard output during which somebody presses Ctrl+C, after two rows."""

    def flush(self) -> None:
        if self.getvalue().count("\n") == 3:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.usefixtures("in_project")
def test_ctrl_c_leaves_whole_rows_and_says_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["pneumonia", "predict", "data/raw", "--csv", "--model", "models/finetuned.keras"]
    monkeypatch.setattr("sys.argv", command)
    with redirect_stdout(Interrupted()) as out, pytest.raises(SystemExit) as stopped:
        __main__.main()
    assert stopped.value.code == 130
    assert out.getvalue().endswith("\n") and len(list(csv.DictReader(StringIO(out.getvalue())))) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.usefixtures("in_project")
def test_a_full_disk_under_standard_output_is_one_error() -> None:
    with open("/dev/full", "w") as full, redirect_stdout(full), pytest.raises(SystemExit) as stopped:
        main(["predict", "data/raw/test", "--csv", "--model", "models/finetuned.keras"])
    what, expected, remedy = str(stopped.value.code).split("\n")
    assert what == "A file or standard output could not be written: No space left on device."
    assert "Expected: " in expected and "Remedy: " in remedy


def test_every_file_in_a_folder_is_an_image_or_counted(images: list[Path], tmp_path: Path) -> None:
    content = images[0].read_bytes()
    kept = {"IM000001", "a.JFIF", "b.jpe", "c.ima", "d.webp", "e.tif", "scan.0001", "broken.dcm", "dangling"}
    for name in kept - {"broken.dcm", "dangling"}:
        (tmp_path / name).write_bytes(content)
    (tmp_path / "broken.dcm").touch()
    (tmp_path / "dangling").symlink_to("nowhere")  # nobody can tell what it was
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "notes.txt").write_text("x" * 200)
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    for patterns in ([str(tmp_path)], [str(tmp_path / "*")]):
        found, others = find_images(patterns)
        assert {path.name for path in found} == kept
        assert {path.name for path in others} == {"DICOMDIR", "notes.txt", "empty", "pipe"}


def test_links_to_folders_are_followed_but_never_in_circles(images: list[Path], tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "archive").symlink_to(images[0].parent)
    (tmp_path / "here" / "again").symlink_to(tmp_path / "here")
    assert len(find_images([str(tmp_path / "here")])[0]) == len(list(images[0].parent.iterdir()))


def test_a_file_without_end_is_refused_and_not_read(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "zero.jpeg").symlink_to("/dev/zero")
    with (tmp_path / "sparse.jpeg").open("wb") as file:
        file.truncate(1 << 40)
    sparse, zero = score_files(predictor, find_images([str(tmp_path)])[0])
    assert (sparse["error"], zero["error"]) == ("larger than 1,024 MiB", "cannot be read: Is a pipe, socket or device")


def test_rows_are_there_before_the_last_file_is_read(predictor: Predictor, images: list[Path]) -> None:
    rows = score_files(predictor, [images[0]] * 10_000)
    assert next(rows)["probability"] is not None
    del rows


def test_a_closed_pipe_ends_the_command_quietly(once: Path) -> None:
    command = "python -m pneumonia predict data/raw --model models/finetuned.keras --csv | head -c 1 >/dev/null"
    done = run("bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}", cwd=once, check=False)
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr
    assert done.returncode in (0, 141)  # 0 if all was written before the pipe was closed


@pytest.mark.usefixtures("in_project")
def test_programs_get_json_with_an_answer_for_every_file_in_order(
    predictor: Predictor, images: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["predict", str(images[0].parents[1]), "--json"])
    answered = json.loads(capsys.readouterr().out)
    assert answered["model"] == "1"
    assert all(notice in answered["notice"] for notice in NOTICES)
    assert [row["path"] for row in answered["images"]] == list(map(str, images))
    expected = predictor.predict(np.stack([predictor.read_image(image.read_bytes()) for image in images]))
    for row, answer in zip(answered["images"], expected, strict=True):
        assert row["probability"] == pytest.approx(answer.probability, abs=1e-6)
        assert (row["decision"], row["novel"]) == (answer.decision, answer.novel)


def test_heat_maps_are_written_as_pictures_of_the_images(
    predictor: Predictor, images: list[Path], tmp_path: Path
) -> None:
    list(score_files(predictor, images[:2], tmp_path / "maps"))
    written = sorted((tmp_path / "maps").iterdir())
    assert [path.stem[6:] for path in written] == [image.stem for image in images[:2]]
    for path in written:
        with Image.open(path) as picture:
            assert (picture.size, picture.mode) == ((32, 32), "RGB")


@pytest.mark.parametrize("stem", [*NASTY, "m" * 250, "ü" * 120, "😀" * 62])
def test_names_of_heat_maps_fit_and_differ(stem: str, tmp_path: Path) -> None:
    names = [name_heatmap(number, tmp_path / f"{stem}{end}") for number, end in enumerate((".png", ".jpg"), 99_999)]
    assert len(set(names)) == 2
    assert all(len(name.encode()) <= LONGEST + 11 for name in names)


def test_a_heat_map_that_cannot_be_written_leaves_the_answer(
    predictor: Predictor, images: list[Path], tmp_path: Path
) -> None:
    (tmp_path / name_heatmap(1, images[0])).mkdir()
    first, second = score_files(predictor, images[:2], tmp_path)
    assert first["probability"] is not None and first["error"] == "heat map not written: Is a directory"
    assert second["error"] is None and (tmp_path / name_heatmap(2, images[1])).is_file()


@pytest.mark.usefixtures("in_project")
@pytest.mark.parametrize("place", ["file", "file/below", "/proc/maps-of-nobody"])
def test_a_folder_for_heat_maps_that_cannot_be_written_is_said_first(
    images: list[Path], tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=r"Heat maps cannot be written to (.|\n)*Expected: (.|\n)*Remedy: "):
        main(["predict", str(images[0]), "--model", "none", "--heatmap", str(tmp_path / place)])


@pytest.mark.usefixtures("in_project")
@pytest.mark.parametrize(("model", "wrong"), [("99", "no version '99'"), ("no.keras", "no.keras is no file")])
def test_a_model_that_does_not_exist_is_an_error_in_three_parts(images: list[Path], model: str, wrong: str) -> None:
    with pytest.raises(SystemExit, match=f"{wrong}(.|\n)*Expected: (.|\n)*Remedy: "):
        main(["predict", str(images[0]), "--model", model])
