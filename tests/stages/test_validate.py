"""The stage writes its tables and its page, and stops where nothing can be read."""

from pathlib import Path

import pytest
from pictures import encode
from PIL import Image
from projects import ROOT

from pneumonia.core.errors import InputError
from pneumonia.core.params import DataParams, ValidateParams
from stages.validate import validate

PARAMS = ValidateParams(max_refused_share=0.1, min_side=64, max_aspect=4, min_contrast=2, min_class_share=0.2)
DATA = DataParams(source="phantom", path=Path("unused"), patients="auto", images=48, seed=7)


def fill(raw: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_bytes(content)


def run(raw: Path, out: Path) -> str:
    records, refused, results, docs = (out / name for name in ("records.csv", "refused.csv", "results.json", "docs"))
    return validate(raw, ROOT / "data" / "corrections.csv", records, refused, results, docs, PARAMS, DATA)


def test_the_same_images_leave_the_same_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = {
        f"all/{('NORMAL', 'PNEUMONIA')[number % 2]}/{number}.png": encode(Image.linear_gradient("L").rotate(number))
        for number in range(10)
    }
    fill(tmp_path / "raw", images | {"all/NORMAL/broken.jpeg": b""})
    for out in ("one", "two"):
        assert run(tmp_path / "raw", tmp_path / out) == "10 images read, 1 files refused"
    assert "  refused: empty file: 1\n" in capsys.readouterr().out
    for name in ("records.csv", "refused.csv", "results.json", "docs/index.html"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize("files", [{}, {"all/NORMAL/a.jpeg": b"", "all/PNEUMONIA/b.jpeg": b"no image"}])
def test_without_a_readable_image_there_are_reasons_and_no_table(files: dict[str, bytes], tmp_path: Path) -> None:
    fill(tmp_path / "raw", files)
    with pytest.raises(InputError, match="images_present: expected") as error:
        run(tmp_path / "raw", tmp_path)
    assert all(name in str(error.value) for name in files)
    assert len((tmp_path / "refused.csv").read_text().splitlines()) == 1 + len(files)
    assert (tmp_path / "docs" / "index.html").exists()
    assert not (tmp_path / "records.csv").exists()
