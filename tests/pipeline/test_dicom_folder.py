"""A folder of DICOM images passes through the stages that read images."""

from pathlib import Path

import numpy as np
import pytest
from dicoms import NARROW, encode, shipped
from numpy.random import default_rng

from pneumonia.augment.build import read_split
from pneumonia.core.params_file import load_params
from pneumonia.images.decode import read_image
from pneumonia.records.expectations import check_images
from pneumonia.records.scan import scan_images
from pneumonia.sources.folder import fetch_folder
from pneumonia.sources.phantom import draw_chest, expose


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of DICOM images as a hospital exports it, a structured report among them."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(12):
        label = ("NORMAL", "PNEUMONIA")[number % 2]
        body = expose(default_rng(number), draw_chest(default_rng(number), default_rng(9), (80, 100), label[6:9]))
        (folder / label).mkdir(exist_ok=True)
        (folder / label / f"{number}.{('dcm', 'DICOM')[number % 2]}").write_bytes(encode(body, **NARROW))
    (folder / "NORMAL" / "report.dcm").write_bytes(shipped("test-SR.dcm"))
    return folder


def test_a_folder_of_dicom_images_is_fetched_validated_and_decoded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PNEUMONIA_PATIENT_KEY", "secret")
    fetch_folder(folder, tmp_path / "raw")
    records, refused = scan_images(tmp_path / "raw", "dicom")
    assert refused["path"].tolist() == ["all/NORMAL/report.dcm"]
    assert records["mode"].unique().tolist() == ["DICOM MONOCHROME2"]
    params = load_params()
    lenient = params.validate_.model_copy(update={"max_refused_share": 0.1})
    checks = check_images(records, refused, lenient, params.data, tmp_path / "docs")
    assert [str(check) for check in checks if check.success is False] == []
    images = read_split(records, tmp_path / "raw", 32).images
    expected = [read_image((tmp_path / "raw" / path).read_bytes(), 32) for path in records["path"]]
    assert np.array_equal(images, expected)
