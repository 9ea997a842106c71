"""Measure the initial and the fine-tuned model on the test split."""

from pathlib import Path

import pandas as pd

from pneumonia.activations import ActivationCache
from pneumonia.augment import read_dataset
from pneumonia.figures import draw_confusion, draw_learning_curves, draw_precision_recall, draw_roc
from pneumonia.files import write_json
from pneumonia.metrics import compute_metrics, list_calls, trace_curves
from pneumonia.model import load_model
from pneumonia.params import CacheParams, ComputeParams, DataParams, EvaluateParams
from pneumonia.predict import predict_probabilities
from pneumonia.records import write_table
from pneumonia.stage import run_stage


def evaluate(
    dataset: Path, initial: Path, finetuned: Path, train_history: Path, finetune_history: Path,
    metrics: Path, out: Path, params: EvaluateParams, data: DataParams, compute: ComputeParams, limits: CacheParams,
) -> None:  # fmt: skip
    """Write metrics, and into the folder `out` the predictions, curves and figures."""
    test = read_dataset(dataset).test
    cache = ActivationCache(compute, limits)
    models = {m.stem: predict_probabilities(load_model(m), test.images, cache) for m in (initial, finetuned)}
    measured = {name: compute_metrics(test.labels, p, params.threshold) for name, p in models.items()}
    write_table(pd.DataFrame({"path": test.paths, "label": test.labels, **models}), out / "predictions.csv")
    for name, curve in trace_curves(test.labels, models).items():
        write_table(curve, out / f"{name}.csv")
    write_table(list_calls(test.labels, models["finetuned"], params.threshold), out / "confusion.csv")
    histories = pd.read_csv(train_history), pd.read_csv(finetune_history)
    draw_learning_curves(out / "learning_curves.png", *histories, data.notice)
    draw_roc(out / "roc.png", test.labels, models, data.notice)
    draw_precision_recall(out / "precision_recall.png", test.labels, models, data.notice)
    draw_confusion(out / "confusion.png", test.labels, models, params.threshold, data.notice)
    write_json(measured, metrics)
    print(pd.DataFrame(measured).to_string(float_format="{:.5g}".format))


if __name__ == "__main__":
    run_stage(evaluate)
