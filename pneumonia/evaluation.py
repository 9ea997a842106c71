"""Write what an evaluation leaves behind: tables, curves and heat maps of the test split."""

from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd

from pneumonia.augment import Split
from pneumonia.calibration import calibrate, expected_calibration_error, trace_reliability
from pneumonia.figures import (
    draw_confusion,
    draw_heatmaps,
    draw_pairs,
    draw_precision_recall,
    draw_reliability,
    draw_roc,
)
from pneumonia.heatmaps import TITLES, explain
from pneumonia.intervals import compare_models, measure_intervals
from pneumonia.metrics import OUTCOMES, Probabilities, list_calls, pick_examples, trace_curves
from pneumonia.operating_point import OperatingPoint
from pneumonia.params import DataParams, EvaluateParams
from pneumonia.records import write_table
from pneumonia.subgroups import describe_groups, measure_groups

Points = Mapping[str, OperatingPoint]
ERRORS = 12  # most films in the gallery


def find_records(records: pd.DataFrame, test: Split) -> pd.DataFrame:
    """Return the records of the test films, in their order."""
    return records.set_index("path", drop=False).loc[list(test.paths)].reset_index(drop=True)


def write_predictions(path: Path, records: pd.DataFrame, models: Mapping[str, Probabilities], test: Split) -> None:
    """Write what each model says of each test film, with all that a later comparison needs of the film."""
    named = records[["path", "sha256", "patient_id", "label"]]
    write_table(named.assign(actual=test.labels, **models), path)


def write_curves(out: Path, test: Split, models: Mapping[str, Probabilities], points: Points, notice: str) -> None:
    """Write curves and confusion matrices of the models named, as tables and figures.

    Args:
        out: folder.
        test: the films.
        models: what each model says of them, probabilities (n,); `finetuned` is one of them.
        points: of each model.
        notice: of every figure.
    """
    thresholds = {name: point.threshold for name, point in points.items()}
    for name, curve in trace_curves(test.labels, models).items():
        write_table(curve, out / f"{name}.csv")
    write_table(list_calls(test.labels, models["finetuned"], thresholds["finetuned"]), out / "confusion.csv")
    draw_roc(out / "roc.png", test.labels, models, notice)
    draw_precision_recall(out / "precision_recall.png", test.labels, models, notice)
    draw_confusion(out / "confusion.png", test.labels, models, thresholds, notice)


def write_intervals(
    out: Path, test: Split, records: pd.DataFrame, models: Mapping[str, Probabilities], points: Points,
    params: EvaluateParams,
) -> None:  # fmt: skip
    """Write 95 % intervals of each model's metrics, of their difference, and of the fine-tuned model in subgroups."""
    patients, drawn = records["patient_id"].to_numpy(), (params.resamples, params.seed)
    tables = {
        name: measure_intervals(test.labels, said, points[name].threshold, patients, *drawn)
        for name, said in models.items()
    }
    names = ("initial", "finetuned")
    said, at = [models[name] for name in names], (points[names[0]].threshold, points[names[1]].threshold)
    tables["gain"] = compare_models(test.labels, said[0], said[1], at, patients, *drawn)
    write_table(pd.concat(tables, names=["model"]).reset_index().round(6), out / "intervals.csv")
    groups = measure_groups(describe_groups(records, test.images), test.labels, said[1], at[1], patients, *drawn)
    write_table(groups.round(6), out / "subgroups.csv")


def write_calibration(
    out: Path, test: Split, log_odds: npt.NDArray[np.floating], point: OperatingPoint, notice: str
) -> None:
    """Write how well probabilities of the fine-tuned model agree with what was found, before and after scaling.

    Args:
        out: folder.
        test: the films.
        log_odds: of pneumonia, shape (n,).
        point: holds the temperature.
        notice: of the figure.
    """
    states = {"as trained": calibrate(log_odds, 1.0), "calibrated": point.find_probabilities(log_odds)}
    rows = [
        {"state": state, "temperature": temperature, "brier": float(np.mean((said - test.labels) ** 2)),
         "calibration_error": expected_calibration_error(test.labels, said)}
        for (state, said), temperature in zip(states.items(), (1.0, point.temperature), strict=True)
    ]  # fmt: skip
    write_table(pd.DataFrame(rows).round(6), out / "calibration.csv")
    curves = {state: trace_reliability(test.labels, said) for state, said in states.items()}
    write_table(pd.concat(curves, names=["state"]).reset_index("state").round(6), out / "reliability.csv")
    draw_reliability(out / "reliability.png", curves, notice)


def draw_examples(
    out: Path, test: Split, model: keras.Model, probabilities: Probabilities, point: OperatingPoint,
    params: EvaluateParams, data: DataParams,
) -> None:  # fmt: skip
    """Draw where the fine-tuned model saw pneumonia: films of each outcome, and its most confident errors."""
    shown = pick_examples(test.labels, probabilities, point.threshold, number=4)
    errors = pick_examples(test.labels, probabilities, point.threshold, number=len(test.labels))
    errors = errors[errors.isin(OUTCOMES[2:])]
    doubt = pd.Series(np.abs(probabilities - test.labels)).iloc[errors.index]
    wrong = doubt.sort_values(ascending=False, kind="stable").index[:ERRORS]
    films = np.r_[shown.index, wrong].astype(int)
    heatmaps = explain(model, test.images[films], params.heatmap)
    captions = [f"{probabilities[film]:.4f}  {_shorten(Path(str(test.paths[film])).name)}" for film in films]
    n = len(shown)
    of = f"{TITLES[params.heatmap]} of the fine-tuned model, test split, threshold {point.threshold:.3g}"
    title = f"{of}\nof each outcome the films of which it was most certain, with their probability of pneumonia"
    draw_heatmaps(
        out / "heatmaps.png", test.images[films[:n]], heatmaps[:n], captions[:n], shown.to_numpy(), OUTCOMES, title,
        data.notice,
    )  # fmt: skip
    captions = [
        f"{errors[film].removesuffix('s')}\n{caption}" for film, caption in zip(wrong, captions[n:], strict=True)
    ]
    title = f"{of}\nthe most confident of {len(errors)} errors, with their probability of pneumonia"
    draw_pairs(out / "errors.png", test.images[films[n:]], heatmaps[n:], captions, title, data.notice)


def _shorten(name: str) -> str:
    return name if len(name) <= 30 else f"{name[:12]}…{name[-17:]}"
