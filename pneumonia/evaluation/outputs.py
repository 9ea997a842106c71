"""Evaluate two models on the test split, and write the tables and figures of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd

from pneumonia.core.dataset import Split
from pneumonia.core.figure import caption
from pneumonia.core.params import EvaluateParams
from pneumonia.core.tables import count_unknown, tell_apart, write_table
from pneumonia.evaluation.calibration import trace_reliability
from pneumonia.evaluation.curves import list_calls, trace_curves
from pneumonia.evaluation.examples import OUTCOMES, pick_examples, rank_errors
from pneumonia.evaluation.figures import (
    draw_confusion,
    draw_heatmaps,
    draw_pairs,
    draw_precision_recall,
    draw_reliability,
    draw_roc,
)
from pneumonia.evaluation.intervals import compare_models, measure_intervals
from pneumonia.evaluation.metrics import Probabilities, compute_metrics, measure
from pneumonia.evaluation.subgroups import describe_groups, measure_groups
from pneumonia.evaluation.thresholds import choose_operating_point
from pneumonia.inference.heatmaps import TITLES, explain
from pneumonia.inference.operating_point import OperatingPoint, calibrate
from pneumonia.inference.scores import score_images
from pneumonia.models.activations import ActivationCache

EXAMPLES, ERRORS = 4, 12  # most images of an outcome, and in the gallery of errors


@dataclass(frozen=True)
class Evaluation:
    """Two models, `initial` and `finetuned`, and their scores of the test split.

    Attributes:
        test: the images.
        records: a row for each image, in the same order, columns as in core.tables.DTYPES.
        models: the classifiers by name.
        points: their operating points, chosen on validation.
        log_odds: of pneumonia, not calibrated, shape (n,).
    """

    test: Split
    records: pd.DataFrame
    models: Mapping[str, keras.Model]
    points: Mapping[str, OperatingPoint]
    log_odds: Mapping[str, npt.NDArray[np.float64]]

    @cached_property
    def probabilities(self) -> dict[str, Probabilities]:
        """Calibrated probabilities of pneumonia by model, 0 to 1, shape (n,)."""
        return {name: point.calibrate(self.log_odds[name]) for name, point in self.points.items()}

    @cached_property
    def thresholds(self) -> dict[str, float]:
        """Threshold of each model."""
        return {name: point.threshold for name, point in self.points.items()}

    def measure(self) -> dict[str, dict[str, float | int]]:
        """Return the metrics of each model at its operating point, and its temperature."""
        return {
            name: compute_metrics(self.test.labels, self.probabilities[name], point.threshold)
            | {"temperature": point.temperature}
            for name, point in self.points.items()
        }


def evaluate_models(
    models: Mapping[str, keras.Model], val: Split, test: Split, records: pd.DataFrame, params: EvaluateParams,
    cache: ActivationCache,
) -> Evaluation:  # fmt: skip
    """Choose each model's operating point on validation, then score the test split.

    Args:
        models: classifiers by name, `initial` and `finetuned`.
        val: chooses temperatures and thresholds.
        test: is scored.
        records: rows of the test images among others, in any order.
        params: section evaluate.
        cache: of the activations of the frozen parts.

    Raises:
        InputError: validation lacks one of the classes.
    """
    points: dict[str, OperatingPoint] = {}
    log_odds: dict[str, npt.NDArray[np.float64]] = {}
    images = np.concatenate([val.images, test.images])  # one pass: a second one would trace the model again
    for name, model in models.items():
        on_val, log_odds[name] = np.split(score_images(model, images, cache, params.flip), [len(val.labels)])
        points[name] = choose_operating_point(val.labels, on_val, images.shape[1], params)
    rows = records.set_index("path", drop=False).loc[list(test.paths)].reset_index(drop=True)
    return Evaluation(test, rows, models, points, log_odds)


def write_evaluation(out: Path, found: Evaluation, params: EvaluateParams, notice: str) -> None:
    """Write all tables and figures of an evaluation into the folder `out`; every figure shows `notice`."""
    _write_predictions(out, found)
    _write_curves(out, found, notice)
    _write_intervals(out, found, params)
    _write_calibration(out, found, notice)
    _draw_examples(out, found, params, notice)


def _write_predictions(out: Path, found: Evaluation) -> None:
    """Write each test image's probabilities, with everything that a later comparison needs to know of the image."""
    named = found.records[["path", "sha256", "patient_id", "label"]]
    write_table(named.assign(actual=found.test.labels, **found.probabilities), out / "predictions.csv")


def _write_curves(out: Path, found: Evaluation, notice: str) -> None:
    labels, probabilities = found.test.labels, found.probabilities
    for name, curve in trace_curves(labels, probabilities).items():
        write_table(curve, out / f"{name}.csv")
    write_table(list_calls(labels, probabilities["finetuned"], found.thresholds["finetuned"]), out / "confusion.csv")
    draw_roc(out / "roc.png", labels, probabilities, notice)
    draw_precision_recall(out / "precision_recall.png", labels, probabilities, notice)
    draw_confusion(out / "confusion.png", labels, probabilities, found.thresholds, notice)


def _write_intervals(out: Path, found: Evaluation, params: EvaluateParams) -> None:
    """Write intervals of each model's metrics, of their difference, and of the fine-tuned model in subgroups."""
    labels, at = found.test.labels, found.thresholds
    patients, drawn = tell_apart(found.records).to_numpy(), (params.resamples, params.seed)
    tables = {name: measure_intervals(labels, p, at[name], patients, *drawn) for name, p in found.probabilities.items()}
    first, second = found.probabilities["initial"], found.probabilities["finetuned"]
    both = (at["initial"], at["finetuned"])
    tables["gain"] = compare_models(labels, first, second, both, patients, *drawn)
    write_table(pd.concat(tables, names=["model"]).reset_index().round(6), out / "intervals.csv")
    groups = describe_groups(found.records, found.test.images)
    measured = measure_groups(groups, labels, second, at["finetuned"], patients, *drawn)
    if count_unknown(found.records):
        measured["patients"] = "unknown"
    write_table(measured.round(6), out / "subgroups.csv")


def _write_calibration(out: Path, found: Evaluation, notice: str) -> None:
    """Write how well probabilities of the fine-tuned model agree with the labels, before and after scaling."""
    labels, temperature = found.test.labels, found.points["finetuned"].temperature
    temperatures = {"as trained": 1.0, "calibrated": temperature}
    states = {state: calibrate(found.log_odds["finetuned"], by) for state, by in temperatures.items()}
    measured = {state: measure(labels, probabilities, 0.5) for state, probabilities in states.items()}
    table = pd.DataFrame(measured).T[["brier", "calibration_error"]].rename_axis("state").reset_index()
    table.insert(1, "temperature", list(temperatures.values()))
    write_table(table.round(6), out / "calibration.csv")
    curves = {state: trace_reliability(labels, probabilities) for state, probabilities in states.items()}
    write_table(pd.concat(curves, names=["state"]).reset_index("state").round(6), out / "reliability.csv")
    draw_reliability(out / "reliability.png", curves, notice)


def _draw_examples(out: Path, found: Evaluation, params: EvaluateParams, notice: str) -> None:
    """Draw where the fine-tuned model finds pneumonia: in images of each outcome, and in its most confident errors."""
    judged = (found.test.labels, found.probabilities["finetuned"], found.thresholds["finetuned"])
    shown, errors = pick_examples(*judged, EXAMPLES), rank_errors(*judged)
    images = np.r_[shown.index, errors.index[:ERRORS]].astype(int)
    heatmaps = explain(found.models["finetuned"], found.test.images[images], params.heatmap)
    captions = [f"{judged[1][image]:.4f}  {caption(Path(str(found.test.paths[image])).name)}" for image in images]
    of = f"{TITLES[params.heatmap]} of the fine-tuned model, test split, threshold {judged[2]:.3g}"
    n = len(shown)
    title = f"{of}\nthe most certain radiographs of each outcome, with their probability of pneumonia"
    draw_heatmaps(out / "heatmaps.png", found.test.images[images[:n]], heatmaps[:n], captions[:n],
                  shown.to_numpy(), OUTCOMES, title, notice)  # fmt: skip
    wrong = [f"{kind.removesuffix('s')}\n{text}" for kind, text in zip(errors, captions[n:], strict=False)]
    title = f"{of}\nthe most confident of {len(errors)} errors, with their probability of pneumonia"
    draw_pairs(out / "errors.png", found.test.images[images[n:]], heatmaps[n:], wrong, title, notice)
