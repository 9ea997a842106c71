"""Pooled metrics are what a slow loop over scikit-learn finds, and differences are paired."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from image_tables import make_records
from sklearn.metrics import accuracy_score, f1_score, log_loss, roc_auc_score

from pneumonia.core.params_file import load_params
from pneumonia.crossval.measure import compare_recipes, measure_recipes, predict_held_out
from pneumonia.inference.operating_point import calibrate

PARAMS = load_params().evaluate.model_copy(update={"resamples": 100})
IMAGES, SEEDS = 60, 2
LABELS = np.random.default_rng(0).permutation(np.arange(IMAGES) % 3 > 0).astype(np.uint8)
RECORDS = make_records(
    label=np.array(["NORMAL", "PNEUMONIA"])[LABELS].tolist(), patient_id=[f"p{row // 2}" for row in range(IMAGES)]
).set_index("path")


def make_predictions(recipe: str, strength: float, seed: int) -> pd.DataFrame:
    """Return predictions of all seeds, with thresholds of two folds."""
    rng = np.random.default_rng(seed)
    tables = []
    for number in range(SEEDS):
        probabilities = calibrate(rng.normal(strength * (LABELS - 0.5), 1), 1.0)
        tables.append(pd.DataFrame({
            "recipe": recipe, "number": number, "image": RECORDS.index, "label": LABELS, "probability": probabilities,
            "threshold": np.where(np.arange(IMAGES) % 2, 0.4, 0.6),
        }))  # fmt: skip
    return pd.concat(tables, ignore_index=True)


WEAK, STRONG = make_predictions("weak", 1.0, 1), make_predictions("strong", 3.0, 2)
BOTH = pd.concat([WEAK, STRONG], ignore_index=True)


def loop(table: pd.DataFrame) -> pd.DataFrame:
    """Return four metrics of each seed by scikit-learn."""
    rows = []
    for _, part in table.groupby("number"):
        called = part["probability"] >= part["threshold"]
        rows.append({
            "roc_auc": roc_auc_score(part["label"], part["probability"]), "f1": f1_score(part["label"], called),
            "accuracy": accuracy_score(part["label"], called), "loss": log_loss(part["label"], part["probability"]),
        })  # fmt: skip
    return pd.DataFrame(rows)


def draw_patients() -> list[np.ndarray]:
    """Return the images of each resample as `evaluation.intervals` draws them, one patient after another."""
    names, owners = np.unique(RECORDS["patient_id"], return_inverse=True)
    rng, size = np.random.default_rng(PARAMS.seed), 2**16 // IMAGES
    drawn = [rng.integers(len(names), size=(min(size, 100 - start), len(names))) for start in range(0, 100, size)]
    return [np.concatenate([np.flatnonzero(owners == patient) for patient in row]) for row in np.concatenate(drawn)]


def test_means_spreads_and_intervals_are_those_of_a_slow_loop() -> None:
    found: Any = measure_recipes(BOTH, RECORDS, PARAMS).set_index(["recipe", "metric"])
    seeds = [part.set_index("image").loc[RECORDS.index] for _, part in STRONG.groupby("number")]
    resampled = [
        np.mean([loop(seed.iloc[rows]).iloc[0] for seed in seeds], axis=0) for rows in draw_patients()
    ]  # fmt: skip
    expected = loop(STRONG)
    for place, metric in enumerate(expected):
        row = found.loc[("strong", metric)]
        assert row["mean"] == pytest.approx(expected[metric].mean())
        assert row["spread"] == pytest.approx(expected[metric].std())
        assert (row["lowest"], row["highest"]) == pytest.approx((expected[metric].min(), expected[metric].max()))
        low, high = np.quantile([values[place] for values in resampled], [0.025, 0.975])
        assert (row["low"], row["high"]) == pytest.approx((low, high))


def test_differences_are_those_of_the_means_and_their_intervals_are_paired() -> None:
    found: Any = compare_recipes(BOTH, ["weak", "strong"], RECORDS, PARAMS).set_index("metric")
    assert set(found["recipe"]) == {"strong"} and set(found["baseline"]) == {"weak"}
    for metric, gain in (loop(STRONG).mean() - loop(WEAK).mean()).items():
        assert found.loc[metric, "difference"] == pytest.approx(gain)
    same = pd.concat([WEAK, WEAK.assign(recipe="again")])
    bounds = compare_recipes(same, ["weak", "again"], RECORDS, PARAMS).drop(index=2)[["difference", "low", "high"]]
    assert bounds.eq(0).all(axis=None)


def test_a_fold_that_diverged_leaves_its_images_out_of_its_seed_and_out_of_the_comparison() -> None:
    gone = STRONG["number"].eq(1) & STRONG["image"].isin(RECORDS.index[:20])
    kept = pd.concat([WEAK, STRONG[~gone]], ignore_index=True)
    found = measure_recipes(kept, RECORDS, PARAMS).set_index(["recipe", "metric"])
    assert found.loc[("strong", "roc_auc"), "mean"] == pytest.approx(loop(STRONG[~gone])["roc_auc"].mean())
    compared = compare_recipes(kept, ["weak", "strong"], RECORDS, PARAMS).set_index("metric")
    gain = loop(STRONG[~gone])["f1"].mean() - loop(WEAK[~gone.to_numpy()])["f1"].mean()
    assert compared.loc["f1", "difference"] == pytest.approx(gain)
    assert set(compared["pairs"]) == {SEEDS * IMAGES - 20}


def test_one_seed_has_no_spread() -> None:
    found = measure_recipes(WEAK[WEAK["number"] == 0], RECORDS, PARAMS)
    assert found["spread"].isna().all() and found["seeds"].eq(1).all()


def test_temperature_and_threshold_are_chosen_on_the_validation_part_alone() -> None:
    images, rng = RECORDS.index.tolist(), np.random.default_rng(3)
    log_odds = rng.normal(4 * (LABELS - 0.5), 3)
    val, test = slice(0, 30), slice(30, 60)
    result = {
        "diverged": False, "val": {"images": images[val], "log_odds": log_odds[val].tolist()},
        "test": {"images": images[test], "log_odds": log_odds[test].tolist()},
    }  # fmt: skip
    params = PARAMS.model_copy(update={"threshold": "youden"})
    found = predict_held_out(RECORDS, result, 32, params)
    flipped = {**result, "test": {"images": images[test][::-1], "log_odds": (-log_odds[test]).tolist()}}
    other = predict_held_out(RECORDS, flipped, 32, params)
    assert found["threshold"].nunique() == 1
    assert found["threshold"][0] == other["threshold"][0]
    np.testing.assert_allclose(found["log_odds"] / log_odds[test], -other["log_odds"] / log_odds[test])
    np.testing.assert_allclose(found["probability"], 1 / (1 + np.exp(-found["log_odds"])))
    assert found["label"].tolist() == LABELS[test].tolist()
