"""An operating point turns log odds into calibrated probabilities, and survives its file."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose
from scipy.special import expit

from pneumonia.core.errors import InputError
from pneumonia.core.files import write_json
from pneumonia.inference.operating_point import OperatingPoint, calibrate

POINT = OperatingPoint(image_size=32, flip=True, temperature=1.7, threshold=0.3, rule="f1", notice="Synthetic.")

HUGE = '{"image_size": 100000, "flip": true, "temperature": 1, "threshold": 0.5, "rule": "f1"}'


def test_a_temperature_divides_log_odds():
    assert_allclose(calibrate(np.array([-2.0, 0.0, 2.0]), 2.0), expit([-1, 0, 1]))
    assert_allclose(POINT.calibrate(np.array([-1.7, 3.4])), expit([-1, 2]))


@pytest.mark.parametrize("log_odds, probability", [(-1e4, 0.0), (-1e30, 0.0), (1e4, 1.0), (1e30, 1.0)])
def test_log_odds_beyond_what_exp_can_hold_give_0_or_1_without_a_warning(log_odds: float, probability: float):
    assert calibrate(np.array([[log_odds]]), 0.05).tolist() == [[probability]]


@settings(derandomize=True, max_examples=40, deadline=None)
@given(log_odds=hnp.arrays(np.float64, 12, elements=st.floats(-20, 20)), temperature=st.floats(0.05, 20))
def test_calibrating_keeps_the_order_of_images(log_odds: np.ndarray, temperature: float):
    assert (np.diff(calibrate(np.sort(log_odds), temperature)) >= 0).all()


def test_an_operating_point_survives_its_file(tmp_path: Path):
    write_json(POINT.model_dump(), tmp_path / "point.json")
    assert OperatingPoint.read(tmp_path / "point.json") == POINT


@pytest.mark.parametrize("content", [None, "", "{}", '{"threshold": 0.5}', "[1]", '{"temperature": -1}', HUGE])
def test_a_missing_or_damaged_operating_point_is_an_error_in_three_parts(tmp_path: Path, content: str | None):
    if content is not None:
        (tmp_path / "point.json").write_text(content)
    with pytest.raises(InputError, match=r"point.json is no operating point.*\n  Expected: .*\n  Remedy: dvc repro"):
        OperatingPoint.read(tmp_path / "point.json")
