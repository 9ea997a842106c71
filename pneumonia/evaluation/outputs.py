"""Write what an evaluation leaves behind: tables, curves and heat maps of the test split."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd

from pneumonia.core.dataset import Split
from pneumonia.core.params import EvaluateParams
from pneumonia.core.tables import write_table
from pneumonia.evaluation.calibration import expected_calibration_error, trace_reliability
from pneumonia.evaluation.figures import (
    draw_confusion,
    draw_heatmaps,
    draw_pairs,
    draw_precision_recall,
    draw_reliability,
    draw_roc,
)
from pneumonia.evaluation.intervals import compare_models, measure_intervals
from pneumonia.evaluation.metrics import (
    OUTCOMES,
    Probabilities,
    compute_metrics,
    list_calls,
    pick_examples,
    trace_curves,
)
from pneumonia.evaluation.subgroups import describe_groups, measure_groups
from pneumonia.evaluation.thresholds import choose_operating_point
from pneumonia.inference.heatmaps import TITLES, explain
from pneumonia.inference.operating_point import OperatingPoint, calibrate
from pneumonia.inference.scores import predict_log_odds
from pneumonia.models.activations import ActivationCache

ERRORS = 12  # most images in the gallery


@dataclass(frozen=True)
class Evaluation:
    """What two models, `initial` and `finetuned`, say of the test split.

    Attributes:
        test: the images.
        records: their rows in the table of images, in the same order.
        models: the classifiers.
        points: their operating points, chosen on validation.
        log_odds: of pneumonia, shape (n,).
    """

    test: Split
    records: pd.DataFrame
    models: Mapping[str, keras.Model]
    points: Mapping[str, OperatingPoint]
    log_odds: Mapping[str, npt.NDArray[np.float64]]

    @cached_property
    def said(self) -> dict[str, Probabilities]:
        """Calibrated probabilities of pneumonia, shape (n,)."""
        return {name: point.find_probabilities(self.log_odds[name]) for name, point in self.points.items()}

    @cached_property
    def thresholds(self) -> dict[str, float]:
        """Threshold of each model."""
        return {name: point.threshold for name, point in self.points.items()}

    def measure(self) -> dict[str, dict[str, float | int]]:
        """Return the metrics of each model at its operating point."""
        return {
            name: compute_metrics(self.test.labels, self.said[name], point.threshold)
            | {"temperature": point.temperature}
            for name, point in self.points.items()
        }


def evaluate_models(
    models: Mapping[str, keras.Model], val: Split, test: Split, records: pd.DataFrame, params: EvaluateParams,
    cache: ActivationCache,
) -> Evaluation:  # fmt: skip
    """Choose each model's operating point on validation, then score the test split.

    Raises:
        InputError: validation lacks one of the classes.
    """
    points = {name: choose_operating_point(model, val, params, cache) for name, model in models.items()}
    log_odds = {name: predict_log_odds(model, test.images, cache, params.flip) for name, model in models.items()}
    rows = records.set_index("path", drop=False).loc[list(test.paths)].reset_index(drop=True)
    return Evaluation(test, rows, models, points, log_odds)


def write_evaluation(out: Path, found: Evaluation, params: EvaluateParams, notice: str) -> None:
    """Write all tables and figures of an evaluation into the folder `out`; `notice` stands in every figure."""
    _write_predictions(out, found)
    _write_curves(out, found, notice)
    _write_intervals(out, found, params)
    _write_calibration(out, found, notice)
    _draw_examples(out, found, params, notice)


def _write_predictions(out: Path, found: Evaluation) -> None:
    """Write what each model says of each test image, with all that a later comparison needs of the image."""
    named = found.records[["path", "sha256", "patient_id", "label"]]
    write_table(named.assign(actual=found.test.labels, **found.said), out / "predictions.csv")


def _write_curves(out: Path, found: Evaluation, notice: str) -> None:
    labels, said = found.test.labels, found.said
    for name, curve in trace_curves(labels, said).items():
        write_table(curve, out / f"{name}.csv")
    write_table(list_calls(labels, said["finetuned"], found.thresholds["finetuned"]), out / "confusion.csv")
    draw_roc(out / "roc.png", labels, said, notice)
    draw_precision_recall(out / "precision_recall.png", labels, said, notice)
    draw_confusion(out / "confusion.png", labels, said, found.thresholds, notice)


def _write_intervals(out: Path, found: Evaluation, params: EvaluateParams) -> None:
    """Write 95 % intervals of each model's metrics, of their difference, and of the fine-tuned model in subgroups."""
    labels, at = found.test.labels, found.thresholds
    patients, drawn = found.records["patient_id"].to_numpy(), (params.resamples, params.seed)
    tables = {name: measure_intervals(labels, said, at[name], patients, *drawn) for name, said in found.said.items()}
    first, second = found.said["initial"], found.said["finetuned"]
    both = (at["initial"], at["finetuned"])
    tables["gain"] = compare_models(labels, first, second, both, patients, *drawn)
    write_table(pd.concat(tables, names=["model"]).reset_index().round(6), out / "intervals.csv")
    groups = describe_groups(found.records, found.test.images)
    measured = measure_groups(groups, labels, second, at["finetuned"], patients, *drawn)
    write_table(measured.round(6), out / "subgroups.csv")


def _write_calibration(out: Path, found: Evaluation, notice: str) -> None:
    """Write how well probabilities of the fine-tuned model agree with what was found, before and after scaling."""
    labels, log_odds, temperature = (
        found.test.labels,
        found.log_odds["finetuned"],
        found.points["finetuned"].temperature,
    )
    states = {"as trained": calibrate(log_odds, 1.0), "calibrated": found.said["finetuned"]}
    rows = [
        {"state": state, "temperature": by, "brier": float(np.mean((said - labels) ** 2)),
         "calibration_error": expected_calibration_error(labels, said)}
        for (state, said), by in zip(states.items(), (1.0, temperature), strict=True)
    ]  # fmt: skip
    write_table(pd.DataFrame(rows).round(6), out / "calibration.csv")
    curves = {state: trace_reliability(labels, said) for state, said in states.items()}
    write_table(pd.concat(curves, names=["state"]).reset_index("state").round(6), out / "reliability.csv")
    draw_reliability(out / "reliability.png", curves, notice)


def _draw_examples(out: Path, found: Evaluation, params: EvaluateParams, notice: str) -> None:
    """Draw where the fine-tuned model saw pneumonia: images of each outcome, and its most confident errors."""
    test, probabilities, threshold = found.test, found.said["finetuned"], found.thresholds["finetuned"]
    shown = pick_examples(test.labels, probabilities, threshold, number=4)
    errors = pick_examples(test.labels, probabilities, threshold, number=len(test.labels))
    errors = errors[errors.isin(OUTCOMES[2:])]
    doubt = pd.Series(np.abs(probabilities - test.labels)).iloc[errors.index]
    wrong = doubt.sort_values(ascending=False, kind="stable").index[:ERRORS]
    images = np.r_[shown.index, wrong].astype(int)
    heatmaps = explain(found.models["finetuned"], test.images[images], params.heatmap)
    captions = [f"{probabilities[image]:.4f}  {_shorten(Path(str(test.paths[image])).name)}" for image in images]
    n = len(shown)
    of = f"{TITLES[params.heatmap]} of the fine-tuned model, test split, threshold {threshold:.3g}"
    title = f"{of}\nof each outcome the images of which it was most certain, with their probability of pneumonia"
    draw_heatmaps(
        out / "heatmaps.png", test.images[images[:n]], heatmaps[:n], captions[:n], shown.to_numpy(), OUTCOMES, title,
        notice,
    )  # fmt: skip
    captions = [
        f"{errors[image].removesuffix('s')}\n{caption}" for image, caption in zip(wrong, captions[n:], strict=True)
    ]
    title = f"{of}\nthe most confident of {len(errors)} errors, with their probability of pneumonia"
    draw_pairs(out / "errors.png", test.images[images[n:]], heatmaps[n:], captions, title, notice)


def _shorten(name: str) -> str:
    return name if len(name) <= 30 else f"{name[:12]}…{name[-17:]}"
