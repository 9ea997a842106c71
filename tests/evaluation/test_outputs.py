"""An evaluation leaves tables from which every figure of the report can be checked."""

from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

from pneumonia.core.dataset import Split
from pneumonia.core.params import DataParams, EvaluateParams, ModelParams
from pneumonia.evaluation.calibration import expected_calibration_error
from pneumonia.evaluation.intervals import compare_models, measure_intervals
from pneumonia.evaluation.outputs import (
    draw_examples,
    find_records,
    write_calibration,
    write_intervals,
    write_predictions,
)
from pneumonia.inference.operating_point import OperatingPoint, calibrate
from pneumonia.models.classifier import build_model

RNG = np.random.default_rng(0)
N = 40
PATHS = np.array([f"test/PNEUMONIA/person{i}_virus_{i}.jpeg" for i in range(N)])
LABELS = np.array([0, 1] * (N // 2), np.uint8)
TEST = Split(RNG.integers(0, 256, (N, 32, 32), dtype=np.uint8), LABELS, PATHS, np.zeros(N, bool))
LOG_ODDS = RNG.normal(2.0 * LABELS - 1, 1.5)
POINT = OperatingPoint(image_size=32, flip=False, temperature=2.0, threshold=0.4, rule="youden")
POINTS = {"initial": POINT.model_copy(update={"threshold": 0.6}), "finetuned": POINT}
MODELS = {"initial": RNG.random(N), "finetuned": POINT.find_probabilities(LOG_ODDS)}
PARAMS = EvaluateParams(
    threshold="youden", sensitivity_floor=0.9, flip=False, heatmap="grad_cam", resamples=200, seed=3
)
RECORDS = pd.DataFrame({
    "path": PATHS, "label": np.array(["NORMAL", "PNEUMONIA"])[LABELS], "patient_id": [f"p{i // 2}" for i in range(N)],
    "source_folder": "test", "sha256": [f"{i:064}" for i in range(N)], "width": 100, "height": 90, "mode": "L",
    "contrast": 50.0,
})  # fmt: skip


def test_records_stand_in_the_order_of_the_images() -> None:
    shuffled = RECORDS.sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(find_records(shuffled, TEST), RECORDS)


def test_predictions_name_each_image_by_content_and_patient(tmp_path: Path) -> None:
    write_predictions(tmp_path / "predictions.csv", RECORDS, MODELS, TEST)
    table = pd.read_csv(tmp_path / "predictions.csv", dtype={"sha256": str})
    assert table["sha256"].tolist() == RECORDS["sha256"].tolist()
    assert table["patient_id"].tolist() == RECORDS["patient_id"].tolist()
    np.testing.assert_array_equal(table["finetuned"], MODELS["finetuned"])  # not rounded: it decides a comparison


@pytest.fixture
def intervals(tmp_path: Path) -> pd.DataFrame:
    write_intervals(tmp_path, TEST, RECORDS, MODELS, POINTS, PARAMS)
    return pd.read_csv(tmp_path / "intervals.csv")


def of(intervals: pd.DataFrame, model: str) -> pd.DataFrame:
    return intervals[intervals["model"] == model].drop(columns="model").set_index("metric")


def test_intervals_are_those_over_patients_at_each_models_threshold(intervals: pd.DataFrame) -> None:
    for name, point in POINTS.items():
        expected = measure_intervals(LABELS, MODELS[name], point.threshold, RECORDS["patient_id"].to_numpy(), 200, 3)
        pd.testing.assert_frame_equal(of(intervals, name), expected, atol=1e-6, check_names=False)


def test_what_fine_tuning_gained_is_a_paired_difference(intervals: pd.DataFrame) -> None:
    patients = RECORDS["patient_id"].to_numpy()
    expected = compare_models(LABELS, MODELS["initial"], MODELS["finetuned"], (0.6, 0.4), patients, 200, 3)
    pd.testing.assert_frame_equal(of(intervals, "gain"), expected, atol=1e-6, check_names=False)


def test_subgroups_are_those_of_the_fine_tuned_model(intervals: pd.DataFrame, tmp_path: Path) -> None:
    table = pd.read_csv(tmp_path / "subgroups.csv").set_index(["by", "group"])
    assert table.loc[("source folder", "test"), "roc_auc"] == pytest.approx(
        of(intervals, "finetuned").at["roc_auc", "value"]
    )


def test_calibration_is_told_before_and_after_the_temperature(tmp_path: Path) -> None:
    write_calibration(tmp_path, TEST, LOG_ODDS, POINT, "")
    table = pd.read_csv(tmp_path / "calibration.csv").set_index("state")
    assert table["temperature"].to_dict() == {"as trained": 1.0, "calibrated": 2.0}
    for state, temperature in table["temperature"].items():
        said = calibrate(LOG_ODDS, temperature)
        assert table.at[state, "calibration_error"] == pytest.approx(expected_calibration_error(LABELS, said), abs=1e-6)
        assert table.at[state, "brier"] == pytest.approx(np.mean((said - LABELS) ** 2), abs=1e-6)
    assert (pd.read_csv(tmp_path / "reliability.csv").groupby("state")["images"].sum() == N).all()
    assert (tmp_path / "reliability.png").stat().st_size > 5_000


@pytest.mark.parametrize("perfect", [False, True], ids=["with errors", "without any"])
def test_examples_and_errors_are_drawn(tmp_path: Path, perfect: bool) -> None:
    keras.utils.set_random_seed(1)
    model = build_model(ModelParams(backbone="tiny", weights="none", image_size=32, dropout=0.0, head="sigmoid"))
    said = LABELS.astype(float) if perfect else MODELS["finetuned"]
    data = DataParams(source="phantom", path=Path(), images=48, seed=1)
    draw_examples(tmp_path, TEST, model, said, POINT, PARAMS, data)
    assert {path.name for path in tmp_path.glob("*.png")} == {"heatmaps.png", "errors.png"}
