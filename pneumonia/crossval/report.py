"""Write what a cross-validation found: tables, a figure and a page."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pneumonia.core.figure import caption, drawing
from pneumonia.core.names import CLASSES
from pneumonia.core.params import Params
from pneumonia.core.tables import count_unknown, write_table
from pneumonia.crossval.measure import compare_recipes, measure_recipes
from pneumonia.crossval.plan import Run, Work
from pneumonia.evaluation.metrics import METRICS
from pneumonia.reporting.render import render

COLUMNS = ["image", "sha256", "patient", "fold", "seed", "recipe", "label", "log_odds", "probability", "threshold"]
DRAWN = {"roc_auc": "ROC AUC", "accuracy": "Accuracy", "f1": "F1", "loss": "Log loss"}
NAMES = DRAWN | {
    "pr_auc": "Average precision", "sensitivity": "Sensitivity", "specificity": "Specificity",
    "precision": "Positive predictive value", "brier": "Brier score", "calibration_error": "Expected calibration error",
}  # fmt: skip


def write_crossval(
    out: Path, runs: Sequence[Run], recipes: Mapping[str, Params], work: Work, test: bool
) -> pd.DataFrame:
    """Write all outputs into a folder, the same runs as the same bytes, and return the table of metrics.

    Args:
        out: folder.
        runs: of all recipes.
        recipes: parameters of each; the first is what others are compared with, and says how to resample.
        work: what they share.
        test: whether images of the test split take part.
    """
    first, *_ = recipes.values()
    predictions = pd.concat([
        run.predictions.assign(recipe=run.recipe, seed=run.seed, number=run.number, fold=run.fold) for run in runs
    ])  # fmt: skip
    order = pd.Index(work.records.index).get_indexer(pd.Index(predictions["image"]))
    predictions = predictions.assign(order=order).sort_values(["number", "order"], kind="stable")
    predictions = pd.concat([predictions[predictions["recipe"] == name] for name in recipes], ignore_index=True)
    metrics = measure_recipes(predictions, work.records, first.evaluate)
    differences = compare_recipes(predictions, list(recipes), work.records, first.evaluate)
    of_runs = pd.DataFrame([
        {"recipe": run.recipe, "seed": run.seed, "fold": run.fold, "images": len(run.result["test"]["images"]),
         "diverged": run.result["diverged"], **run.metrics} for run in runs
    ])  # fmt: skip
    write_table(predictions[COLUMNS], out / "predictions.csv")
    for name, table in (("metrics", metrics), ("differences", differences), ("folds", of_runs)):
        write_table(table.round(6), out / f"{name}.csv")
    draw_crossval(out / "crossval.png", metrics, of_runs, first.data.notice)
    _write_page(out, metrics, differences, of_runs, recipes, work, test)
    return metrics


def draw_crossval(path: Path, metrics: pd.DataFrame, folds: pd.DataFrame, notice: str) -> None:
    """Draw each recipe's metrics: the mean over seeds with its interval, and every fold of every seed as a dot.

    Args:
        path: PNG to write.
        metrics: from `measure_recipes`.
        folds: a row for each recipe, seed and fold, with METRICS.
        notice: stands below the figure, empty for none.
    """
    recipes = list(metrics["recipe"].unique())
    at = dict(zip(recipes, range(len(recipes))[::-1], strict=True))
    size = (3.6 * len(DRAWN) + 1, 1.9 + 0.6 * len(recipes))
    with drawing(path, 1, len(DRAWN), size, "Held-out folds: mean over seeds with 95 % interval", notice) as axes:
        for axis, (metric, label) in zip(axes.flat, DRAWN.items(), strict=True):
            axis.plot(folds[metric], folds["recipe"].map(at) - 0.2, ".", color="lightgrey")
            for row in metrics[metrics["metric"] == metric].to_dict("records"):
                axis.plot([row["low"], row["high"]], [at[row["recipe"]]] * 2, color="tab:blue")
                axis.plot(row["mean"], at[row["recipe"]], "o", color="tab:blue")
            axis.set(xlabel=label, ylim=(-0.6, len(recipes) - 0.4))
            axis.set_yticks(list(at.values()), [])
            axis.locator_params(axis="x", nbins=4)  # more would overlap
            axis.grid(axis="x", alpha=0.3)
        axes.flat[0].set_yticks(list(at.values()), [caption(name, 40) for name in at])


def _write_page(
    out: Path, metrics: pd.DataFrame, differences: pd.DataFrame, folds: pd.DataFrame, recipes: Mapping[str, Params],
    work: Work, test: bool,
) -> None:  # fmt: skip
    first, *_ = recipes.values()
    flat = pd.DataFrame({name: params.flat() for name, params in recipes.items()}).astype(str)
    varied = flat[(flat.nunique(axis=1) > 1) & (flat.index != "recipe")]
    records = work.records
    render("crossval.html", out / "index.html", {
        "params": first, "names": NAMES, "test": test, "head_only": work.head_only, "classes": CLASSES,
        "recipes": list(recipes), "folds": len(work.folds), "seeds": sorted(folds["seed"].unique().tolist()),
        "images": len(records), "labels": records["label"].value_counts().to_dict(),
        "patients": "unknown" if count_unknown(records) else f"{records['patient_id'].nunique():,}",
        "inner": [int(fold["split"].eq("val").sum()) for fold in work.folds],
        "metrics": _nest(metrics), "differences": _nest(differences),
        "diverged": folds[folds["diverged"]].to_dict("records"), "varied": varied.to_dict(),
        "picture": base64.b64encode((out / "crossval.png").read_bytes()).decode(),
    }, "pneumonia.crossval")  # fmt: skip


def _nest(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return the rows by metric and recipe."""
    return {
        metric: {row["recipe"]: row for row in table[table["metric"] == metric].to_dict("records")}
        for metric in METRICS
    }
