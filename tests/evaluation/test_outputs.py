"""An evaluation writes tables from which every figure of the report can be checked."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest

from pneumonia.core.dataset import Split
from pneumonia.core.params import CacheParams, ComputeParams, EvaluateParams, ModelParams
from pneumonia.evaluation.intervals import compare_models, measure_intervals
from pneumonia.evaluation.metrics import compute_metrics, measure
from pneumonia.evaluation.outputs import Evaluation, evaluate_models, write_evaluation
from pneumonia.inference.operating_point import OperatingPoint, calibrate
from pneumonia.inference.scores import score_images
from pneumonia.models.activations import ActivationCache
from pneumonia.models.classifier import build_model

RNG = np.random.default_rng(0)
N = 40
PATHS = np.array([f"test/PNEUMONIA/person{i}_virus_{i}.jpeg" for i in range(N)])
LABELS = np.array([0, 1] * (N // 2), np.uint8)
TEST = Split(RNG.integers(0, 256, (N, 32, 32), dtype=np.uint8), LABELS, PATHS, np.zeros(N, bool))
LOG_ODDS = {name: RNG.normal(2.0 * LABELS - 1, 1.5) for name in ("initial", "finetuned")}
POINT = OperatingPoint(image_size=32, flip=False, temperature=2.0, threshold=0.4, rule="youden")
POINTS = {"initial": POINT.model_copy(update={"threshold": 0.6}), "finetuned": POINT}
PARAMS = EvaluateParams(
    threshold="youden", sensitivity_floor=0.9, flip=False, heatmap="grad_cam", resamples=100, seed=3
)
RECORDS = pd.DataFrame({
    "path": PATHS, "label": np.array(["NORMAL", "PNEUMONIA"])[LABELS], "patient_id": [f"p{i // 2}" for i in range(N)],
    "source_folder": "test", "sha256": [f"{i:064}" for i in range(N)], "width": 100, "height": 90, "mode": "L",
    "contrast": 50.0,
    "modality": "",
    "view": "",
    "body_part": "",
})  # fmt: skip
PATIENTS = RECORDS["patient_id"].to_numpy()


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(1)
    return build_model(ModelParams(backbone="tiny", weights="none", image_size=32, dropout=0.0, head="sigmoid"))


@pytest.fixture(scope="module")
def found(model: keras.Model) -> Evaluation:
    return Evaluation(TEST, RECORDS, {"initial": model, "finetuned": model}, POINTS, LOG_ODDS)


@pytest.fixture(scope="module")
def out(found: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation")
    write_evaluation(folder, found, PARAMS, "")
    return folder


@pytest.fixture
def intervals(out: Path) -> Callable[[str], pd.DataFrame]:
    table = pd.read_csv(out / "intervals.csv")
    return lambda model: table[table["model"] == model].drop(columns="model").set_index("metric")


@pytest.mark.parametrize("flip", [False, True])
def test_models_are_scored_on_test_at_points_chosen_on_validation(
    model: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flip: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    cache = ActivationCache(ComputeParams(precision="float32", batch_size=16, threads="auto"), CacheParams(max_gb=1))
    val = Split(TEST.images[:20], LABELS[:20], PATHS[:20], np.zeros(20, bool))
    params = PARAMS.model_copy(update={"flip": flip})
    shuffled = RECORDS.sample(frac=1, random_state=1)
    evaluated = evaluate_models({"initial": model, "finetuned": model}, val, TEST, shuffled, params, cache)
    pd.testing.assert_frame_equal(evaluated.records, RECORDS)
    expected = score_images(model, TEST.images, flip=flip)
    for name, point in evaluated.points.items():
        np.testing.assert_allclose(evaluated.log_odds[name], expected, rtol=0, atol=1e-5)
        assert (point.rule, point.flip, point.image_size) == ("youden", flip, 32)


def test_metrics_are_those_of_calibrated_probabilities_at_each_models_threshold(found: Evaluation) -> None:
    for name, threshold in (("initial", 0.6), ("finetuned", 0.4)):
        expected: dict[str, Any] = compute_metrics(LABELS, calibrate(LOG_ODDS[name], 2.0), threshold)
        assert found.measure()[name] == expected | {"temperature": 2.0}


def test_predictions_identify_each_image_by_content_and_patient(out: Path, found: Evaluation) -> None:
    table = pd.read_csv(out / "predictions.csv", dtype={"sha256": str})
    for column in ("path", "sha256", "patient_id", "label"):
        assert table[column].tolist() == RECORDS[column].tolist()
    assert table["actual"].tolist() == LABELS.tolist()
    for name, probabilities in found.probabilities.items():
        np.testing.assert_array_equal(table[name], probabilities)  # not rounded: they decide a comparison


def test_images_of_unknown_patients_are_drawn_one_by_one_and_their_patients_are_not_counted(
    model: keras.Model, tmp_path: Path
) -> None:
    unknown = Evaluation(TEST, RECORDS.assign(patient_id=""), {"initial": model, "finetuned": model}, POINTS, LOG_ODDS)
    write_evaluation(tmp_path, unknown, PARAMS, "")
    table: Any = pd.read_csv(tmp_path / "intervals.csv").set_index(["model", "metric"])
    expected: Any = measure_intervals(LABELS, unknown.probabilities["finetuned"], 0.4, np.arange(N), 100, 3)
    assert table.at[("finetuned", "roc_auc"), "low"] == round(expected.at["roc_auc", "low"], 6)
    assert set(pd.read_csv(tmp_path / "subgroups.csv")["patients"]) == {"unknown"}


def test_intervals_are_those_over_patients_at_each_models_threshold(
    intervals: Callable[[str], pd.DataFrame], found: Evaluation
) -> None:
    for name, point in POINTS.items():
        expected = measure_intervals(LABELS, found.probabilities[name], point.threshold, PATIENTS, 100, 3)
        pd.testing.assert_frame_equal(intervals(name), expected, atol=1e-6, check_names=False)


def test_the_gain_of_fine_tuning_is_a_paired_difference(
    intervals: Callable[[str], pd.DataFrame], found: Evaluation
) -> None:
    before, after = (found.probabilities[name] for name in ("initial", "finetuned"))
    expected = compare_models(LABELS, before, after, (0.6, 0.4), PATIENTS, 100, 3)
    pd.testing.assert_frame_equal(intervals("gain"), expected, atol=1e-6, check_names=False)


def test_subgroups_are_those_of_the_fine_tuned_model(intervals: Callable[[str], pd.DataFrame], out: Path) -> None:
    table: Any = pd.read_csv(out / "subgroups.csv").set_index(["by", "group"])
    assert table.loc[("source folder", "test"), "roc_auc"] == intervals("finetuned").at["roc_auc", "value"]


def test_calibration_is_measured_before_and_after_scaling(out: Path) -> None:
    table = pd.read_csv(out / "calibration.csv").set_index("state")
    assert table["temperature"].to_dict() == {"as trained": 1.0, "calibrated": 2.0}
    for state, temperature in table["temperature"].items():
        expected = measure(LABELS, calibrate(LOG_ODDS["finetuned"], temperature), 0.5)
        for name in ("brier", "calibration_error"):
            assert table.at[state, name] == pytest.approx(expected[name], abs=1e-6)
    assert (pd.read_csv(out / "reliability.csv").groupby("state")["images"].sum() == N).all()


def test_curves_and_calls_are_written_for_every_image_of_the_plots(out: Path, found: Evaluation) -> None:
    for name in ("roc", "precision_recall"):
        assert set(pd.read_csv(out / f"{name}.csv")["model"]) == {"initial", "finetuned"}
    called = pd.read_csv(out / "confusion.csv")["called"]
    assert (called == "PNEUMONIA").tolist() == (found.probabilities["finetuned"] >= 0.4).tolist()


FIGURES = {"confusion", "errors", "heatmaps", "precision_recall", "reliability", "roc"}


def test_every_figure_is_drawn(out: Path) -> None:
    assert {path.stem for path in out.glob("*.png")} == FIGURES


def test_a_model_without_errors_has_its_figures_too(found: Evaluation, tmp_path: Path) -> None:
    perfect = {name: np.where(LABELS, 9.0, -9.0) for name in POINTS}
    write_evaluation(tmp_path, Evaluation(TEST, RECORDS, found.models, POINTS, perfect), PARAMS, "")
    assert {path.stem for path in tmp_path.glob("*.png")} == FIGURES
