"""Write what an evaluation leaves behind: tables, curves and heat maps of the test split."""

from collections.abc import Mapping
from pathlib import Path

import keras
import pandas as pd

from pneumonia.augment import Split
from pneumonia.figures import draw_confusion, draw_heatmaps, draw_precision_recall, draw_roc
from pneumonia.heatmaps import TITLES, explain
from pneumonia.metrics import OUTCOMES, Probabilities, list_calls, pick_examples, trace_curves
from pneumonia.params import DataParams, EvaluateParams
from pneumonia.records import write_table


def report_models(
    out: Path, test: Split, models: Mapping[str, Probabilities], thresholds: Mapping[str, float], notice: str
) -> None:
    """Write predictions, curves and confusion matrices of the models named, as tables and figures.

    Args:
        out: folder.
        test: the films.
        models: what each model says of them, probabilities (n,); `finetuned` is one of them.
        thresholds: of each model.
        notice: of every figure.
    """
    write_table(pd.DataFrame({"path": test.paths, "label": test.labels, **models}), out / "predictions.csv")
    for name, curve in trace_curves(test.labels, models).items():
        write_table(curve, out / f"{name}.csv")
    write_table(list_calls(test.labels, models["finetuned"], thresholds["finetuned"]), out / "confusion.csv")
    draw_roc(out / "roc.png", test.labels, models, notice)
    draw_precision_recall(out / "precision_recall.png", test.labels, models, notice)
    draw_confusion(out / "confusion.png", test.labels, models, thresholds, notice)


def report_examples(
    out: Path, test: Split, model: keras.Model, probabilities: Probabilities, threshold: float,
    params: EvaluateParams, data: DataParams,
) -> None:  # fmt: skip
    """Draw where the fine-tuned model saw pneumonia in the films of each outcome of which it was most certain."""
    outcomes = pick_examples(test.labels, probabilities, threshold, number=4)
    shown = outcomes.index.to_numpy()
    captions = [f"{probabilities[film]:.4f}  {_shorten(Path(str(test.paths[film])).name)}" for film in shown]
    films = test.images[shown]
    heatmaps = explain(model, films, params.heatmap)
    title = f"{TITLES[params.heatmap]} of the fine-tuned model, test split, threshold {threshold:.3g}"
    title += "\nof each outcome the films of which it was most certain, with their probability of pneumonia"
    draw_heatmaps(out / "heatmaps.png", films, heatmaps, captions, outcomes.to_numpy(), OUTCOMES, title, data.notice)


def _shorten(name: str) -> str:
    return name if len(name) <= 30 else f"{name[:12]}…{name[-17:]}"
