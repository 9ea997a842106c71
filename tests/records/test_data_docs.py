"""The Data Docs are one page for people, the same bytes for the same tables."""

from pathlib import Path

from image_tables import make_records, make_refused

from pneumonia.core.params import DataParams, ValidateParams
from pneumonia.records.expectations import check_images

PARAMS = ValidateParams(max_refused_share=0.1, min_side=64, max_aspect=4, min_contrast=2, min_class_share=0.2)
DATA = DataParams(source="phantom", path=Path("unused"), patients="auto", images=48, seed=7)
LABELS = ["NORMAL", "PNEUMONIA", "<b>$x</b>"]


def write_page(docs: Path) -> bytes:
    check_images(make_records(label=LABELS), make_refused(1), PARAMS, DATA, docs)
    return (docs / "index.html").read_bytes()


def test_the_page_lists_what_was_refused_and_what_failed(tmp_path: Path) -> None:
    page = write_page(tmp_path)
    assert b"train/NORMAL/bad0.jpeg (empty file)" in page
    assert b"labels_known (critical)" in page


def test_the_page_of_the_phantom_carries_its_notice(tmp_path: Path) -> None:
    assert DATA.notice.encode() in write_page(tmp_path)


def test_the_page_is_the_same_bytes_twice_and_the_only_file(tmp_path: Path) -> None:
    assert write_page(tmp_path / "one") == write_page(tmp_path / "two")
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["index.html"]


def test_the_page_needs_no_network_and_runs_nothing_from_a_name(tmp_path: Path) -> None:
    page = write_page(tmp_path)
    for unwanted in (b"://", b"<script", b"<b>", str(tmp_path).encode()):
        assert unwanted not in page
