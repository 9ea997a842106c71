"""Measure the initial and the fine-tuned model on the test split."""

from pathlib import Path

import pandas as pd

from pneumonia.activations import ActivationCache
from pneumonia.augment import read_dataset
from pneumonia.figures import draw_learning_curves
from pneumonia.files import write_json
from pneumonia.metrics import compute_metrics
from pneumonia.model import load_model
from pneumonia.params import CacheParams, ComputeParams, DataParams, EvaluateParams
from pneumonia.predict import find_threshold, predict_probabilities
from pneumonia.report import report_examples, report_models
from pneumonia.stage import run_stage


def evaluate(
    dataset: Path, initial: Path, finetuned: Path, train_history: Path, finetune_history: Path,
    metrics: Path, out: Path, params: EvaluateParams, data: DataParams, compute: ComputeParams, limits: CacheParams,
) -> None:  # fmt: skip
    """Write metrics, and into the folder `out` the predictions, curves and figures."""
    films, cache = read_dataset(dataset), ActivationCache(compute, limits)
    models = {path.stem: load_model(path) for path in (initial, finetuned)}
    thresholds = {name: find_threshold(model, films.val, params, cache) for name, model in models.items()}
    said = {name: predict_probabilities(m, films.test.images, cache, params.flip) for name, m in models.items()}
    measured = {name: compute_metrics(films.test.labels, p, thresholds[name]) for name, p in said.items()}
    histories = pd.read_csv(train_history), pd.read_csv(finetune_history)
    draw_learning_curves(out / "learning_curves.png", *histories, data.notice)
    report_models(out, films.test, said, thresholds, data.notice)
    report_examples(out, films.test, models["finetuned"], said["finetuned"], thresholds["finetuned"], params, data)
    write_json(measured, metrics)
    print(pd.DataFrame(measured).to_string(float_format="{:.5g}".format))


if __name__ == "__main__":
    run_stage(evaluate)
