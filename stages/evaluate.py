"""Fix each model's operating point on validation and measure it on the test split."""

from pathlib import Path

import pandas as pd

from pneumonia.activations import ActivationCache
from pneumonia.augment import read_dataset
from pneumonia.evaluation import (
    draw_examples,
    find_records,
    write_calibration,
    write_curves,
    write_intervals,
    write_predictions,
)
from pneumonia.figures import draw_learning_curves
from pneumonia.files import write_json
from pneumonia.metrics import compute_metrics
from pneumonia.model import load_model
from pneumonia.novelty import fit_novelty, gather_features
from pneumonia.params import CacheParams, ComputeParams, DataParams, EvaluateParams
from pneumonia.predict import choose_operating_point, predict_log_odds
from pneumonia.records import read_records
from pneumonia.stage import run_stage


def evaluate(
    dataset: Path, splits: Path, initial: Path, finetuned: Path, train_history: Path, finetune_history: Path,
    metrics: Path, point: Path, novelty: Path, out: Path, params: EvaluateParams, data: DataParams,
    compute: ComputeParams, limits: CacheParams,
) -> None:  # fmt: skip
    """Write metrics, what the fine-tuned model is used with, and into the folder `out` tables and figures."""
    films, cache = read_dataset(dataset), ActivationCache(compute, limits)
    test = films.test
    records = find_records(read_records(splits), test)
    models = {path.stem: load_model(path) for path in (initial, finetuned)}
    points = {name: choose_operating_point(model, films.val, params, cache) for name, model in models.items()}
    log_odds = {name: predict_log_odds(model, test.images, cache, params.flip) for name, model in models.items()}
    said = {name: points[name].find_probabilities(values) for name, values in log_odds.items()}
    measured = {
        name: compute_metrics(test.labels, p, points[name].threshold) | {"temperature": points[name].temperature}
        for name, p in said.items()
    }
    draw_learning_curves(
        out / "learning_curves.png", pd.read_csv(train_history), pd.read_csv(finetune_history), data.notice
    )
    write_predictions(out / "predictions.csv", records, said, test)
    write_curves(out, test, said, points, data.notice)
    write_intervals(out, test, records, said, points, params)
    write_calibration(out, test, log_odds["finetuned"], points["finetuned"], data.notice)
    draw_examples(out, test, models["finetuned"], said["finetuned"], points["finetuned"], params, data)
    write_json(points["finetuned"].model_copy(update={"notice": data.notice}).model_dump(), point)
    shown = (films.train.images[:: films.train.views], films.val.images)  # of its views the first is the film itself
    fit_novelty(*(gather_features(models["finetuned"], images, cache) for images in shown)).write(novelty)
    write_json(measured, metrics)
    print(pd.DataFrame(measured).to_string(float_format="{:.5g}".format))


if __name__ == "__main__":
    run_stage(evaluate)
