"""Measure pooled out-of-fold predictions: means over seeds, and intervals by a bootstrap over patients."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from pneumonia.core.names import CLASSES
from pneumonia.core.params import EvaluateParams
from pneumonia.core.tables import tell_apart
from pneumonia.evaluation.intervals import resample
from pneumonia.evaluation.metrics import METRICS, Floats, Meter, measure, prepare_meter
from pneumonia.evaluation.thresholds import choose_operating_point

Result = dict[str, Any]  # of `Trainer.run`


def predict_held_out(records: pd.DataFrame, result: Result, size: int, params: EvaluateParams) -> pd.DataFrame:
    """Return the predictions of a fold, at the operating point that its own validation part chooses.

    Args:
        records: images that take part, indexed by path.
        result: of `Trainer.run`; one that diverged has no predictions.
        size: side of the model's input in pixels.
        params: section evaluate.

    Returns:
        Columns image, sha256, patient, label (0 or 1), log_odds and probability, both calibrated, and threshold.
    """
    found = records.loc[result["test"]["images"] if not result["diverged"] else []]
    table = pd.DataFrame({
        "image": found.index, "sha256": found["sha256"].to_numpy(), "patient": found["patient_id"].to_numpy(),
        "label": _number(found["label"]),
    })  # fmt: skip
    if result["diverged"]:
        return table.assign(log_odds=0.0, probability=0.0, threshold=0.0)
    labels = _number(records.loc[result["val"]["images"], "label"])
    point = choose_operating_point(labels, np.array(result["val"]["log_odds"]), size, params)
    log_odds = np.array(result["test"]["log_odds"])
    calibrated = {"log_odds": log_odds / point.temperature, "probability": point.calibrate(log_odds)}
    return table.assign(**calibrated, threshold=point.threshold)


def _number(labels: "pd.Series[str]") -> Any:
    return labels.eq(CLASSES[1]).to_numpy(np.uint8)


def measure_images(predictions: pd.DataFrame) -> dict[str, float]:
    """Return METRICS of predictions, each image at its own threshold; NaN without any."""
    if predictions.empty:
        return dict.fromkeys(METRICS, np.nan)
    return measure(*_judge(predictions))


def _judge(predictions: pd.DataFrame) -> tuple[Any, Any, Any]:
    return tuple(predictions[name].to_numpy() for name in ("label", "probability", "threshold"))  # pyright: ignore


def measure_recipes(predictions: pd.DataFrame, records: pd.DataFrame, params: EvaluateParams) -> pd.DataFrame:
    """Return METRICS of each recipe: their mean over seeds, its interval, and how far seeds spread.

    Args:
        predictions: of all recipes, seeds and folds: columns as of `predict_held_out`, recipe, number (of the seed).
        records: images that take part, indexed by path.
        params: resamples and their seed.

    Returns:
        A row for each recipe and metric: recipe, metric, mean, low, high, spread (standard deviation over seeds, NaN
        of one), lowest and highest (of seeds), seeds, images.
    """
    tables = []
    for recipe, part in predictions.groupby("recipe", sort=False):
        meter, values = _pool(part, records.index)
        means = {metric: float(values[metric].mean(skipna=False)) for metric in METRICS}
        table = resample(meter, means, tell_apart(records).to_numpy(), params.resamples, params.seed)
        of_seeds = {
            "spread": values.std(), "lowest": values.min(), "highest": values.max(), "seeds": len(values),
            "images": part["image"].nunique(),
        }  # fmt: skip
        tables.append(table.assign(**of_seeds).reset_index().assign(recipe=recipe))
    table = pd.concat(tables).rename(columns={"value": "mean"})
    return table[["recipe", "metric", *(name for name in table if name not in ("recipe", "metric"))]]


def compare_recipes(
    predictions: pd.DataFrame, recipes: Sequence[str], records: pd.DataFrame, params: EvaluateParams
) -> pd.DataFrame:
    """Return how much each recipe exceeds the first on the same images of the same seeds, with paired intervals.

    Args: as of `measure_recipes`, and the names of recipes, the one to compare with first.

    Returns:
        A row for each recipe but the first, and metric: recipe, baseline, metric, difference, low, high, and pairs,
        the number of predictions of either that were compared.
    """
    baseline, *others = recipes
    columns = ["recipe", "baseline", "metric", "difference", "low", "high", "pairs"]
    tables = [pd.DataFrame(columns=columns)]
    for recipe in others:
        before, after, pairs = _pair(predictions, baseline, recipe)
        if not pairs:
            continue
        (old, old_values), (new, new_values) = (_pool(part, records.index) for part in (before, after))
        gains = {name: float((new_values[name] - old_values[name]).mean(skipna=False)) for name in METRICS}
        table = resample(
            lambda weights, old=old, new=new: new(weights) - old(weights),
            gains, tell_apart(records).to_numpy(), params.resamples, params.seed,
        ).reset_index()  # fmt: skip
        tables.append(
            table.rename(columns={"value": "difference"}).assign(recipe=recipe, baseline=baseline, pairs=pairs)
        )
    return pd.concat(tables[1:] or tables, ignore_index=True)[columns]


def _pair(predictions: pd.DataFrame, baseline: str, recipe: str) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """Return the predictions of two recipes on what both predicted: one that diverged lacks a fold of a seed."""
    tables = [predictions[predictions["recipe"] == name] for name in (baseline, recipe)]
    keyed = [table.set_index(["number", "image"], drop=False) for table in tables]
    common = keyed[0].index.intersection(keyed[1].index, sort=False)
    before, after = (table.loc[common].reset_index(drop=True) for table in keyed)
    return before, after, len(common)


def _pool(predictions: pd.DataFrame, images: pd.Index) -> tuple[Meter, pd.DataFrame]:
    """Return the mean over seeds of what weighted images give, and METRICS of each seed, a row each."""
    parts = [part for _, part in predictions.groupby("number")]
    rows = [images.get_indexer(pd.Index(part["image"])) for part in parts]
    meters = [prepare_meter(*_judge(part)) for part in parts]

    def meter(weights: Floats) -> Floats:
        return np.mean([of(weights.take(at, axis=1)) for of, at in zip(meters, rows, strict=True)], axis=0)

    return meter, pd.DataFrame([measure_images(part) for part in parts], columns=list(METRICS))
