"""The Data Docs are one page for people, the same bytes for the same tables."""

from pathlib import Path

import pytest
from image_tables import make_records, make_refused

from pneumonia.core.params import DataParams, ValidateParams
from pneumonia.records.expectations import check_images

PARAMS = ValidateParams(max_refused_share=0.1, min_side=64, max_aspect=4, min_contrast=2, min_class_share=0.2)
DATA = DataParams(source="phantom", path=Path("unused"), patients="auto", images=48, seed=7)
LABELS = ["NORMAL", "PNEUMONIA", "<b>$x</b>"]


@pytest.fixture(scope="module")
def docs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the Data Docs of one table, written twice."""
    docs = tmp_path_factory.mktemp("docs")
    for name in ("one", "two"):
        check_images(make_records(label=LABELS), make_refused(1), PARAMS, DATA, docs / name)
    return docs


def test_the_page_lists_what_was_refused_and_what_failed(docs: Path) -> None:
    page = (docs / "one/index.html").read_text()
    assert "train/NORMAL/bad0.jpeg (empty file)" in page
    assert "labels_known (critical)" in page


def test_the_page_of_the_phantom_carries_its_notice(docs: Path) -> None:
    assert DATA.notice in (docs / "one/index.html").read_text()


def test_the_page_is_the_same_bytes_twice_and_the_only_file(docs: Path) -> None:
    assert (docs / "one/index.html").read_bytes() == (docs / "two/index.html").read_bytes()
    assert [path.name for path in (docs / "one").iterdir()] == ["index.html"]


def test_the_page_needs_no_network_and_runs_nothing_from_a_name(docs: Path) -> None:
    page = (docs / "one/index.html").read_text()
    for unwanted in ("://", "<script", "<b>", str(docs)):
        assert unwanted not in page
