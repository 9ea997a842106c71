"""Cross-validate recipes: deal folds, run them all, write what was found."""

from pathlib import Path
from typing import Literal

import pandas as pd

from pneumonia.core.errors import InputError
from pneumonia.core.runtime import use_threads
from pneumonia.core.tables import read_splits
from pneumonia.crossval.folds import deal_folds
from pneumonia.crossval.kinds import cross_validate_kinds
from pneumonia.crossval.plan import Plan, Work
from pneumonia.crossval.recipes import compose_recipes
from pneumonia.crossval.report import write_crossval
from pneumonia.crossval.run import finish, run_plans
from pneumonia.records.splits import read_alike

SPLITS, NEAR_DUPLICATES, RAW = Path("data/splits.csv"), Path("data/near_duplicates.csv"), Path("data/raw")


def cross_validate(
    recipes: list[str], settings: list[str], folds: int, seeds: int, test: bool, head_only: bool, out: Path,
    target: Literal["label", "kind"] = "label",
) -> pd.DataFrame:  # fmt: skip
    """Cross-validate recipes on the images that the split stage dealt, and return the table of metrics.

    Args:
        recipes: names of files in conf/recipe; others are compared with the first.
        settings: as for `compose_recipes`.
        folds: how many.
        seeds: how many trainings of each fold: those of the recipe, plus 0, 1 and so on. Folds stay the same.
        test: whether the test split takes part; else none of its images is read.
        head_only: whether to stop after the first phase.
        out: folder to write to.
        target: label, or kind for `cross_validate_kinds`, which writes to a folder of this name in `out`.

    Raises:
        InputError: the pipeline has not run up to its split, a recipe or setting cannot be used, folds cannot be dealt,
            weights are missing, activations exceed cache.max_gb, or no fold of any recipe gave predictions.
    """
    variants = compose_recipes(recipes, settings)
    first, *_ = variants.values()
    use_threads(first.compute.threads)
    if seeds < 1:
        raise InputError(f"{seeds} seeds train nothing.", expected="at least 1", remedy="raise --seeds")
    records = _read_records(test)
    alike = read_alike(NEAR_DUPLICATES, first.split)
    if target == "kind":
        return cross_validate_kinds(variants, records, RAW, alike, folds, seeds, out / target)
    dealt = deal_folds(records, folds, first.split, first.data.patients == "each_image", alike)
    work = Work(dealt, seeds, head_only, RAW)
    plans = [Plan(name, params, work) for name, params in variants.items()]
    runs, reached = run_plans(plans)
    if all(run.result["diverged"] for run in runs):
        raise InputError(
            f"All {len(runs)} trainings diverged: their weights are no numbers.",
            expected="a fold whose loss stays finite",
            remedy="lower train.learning_rate or finetune.learning_rate",
        )
    metrics = write_crossval(out, runs, variants, work, test)
    if reached:
        finish(plans, metrics)
    return metrics


def _read_records(test: bool) -> pd.DataFrame:
    records = read_splits(SPLITS)
    if not RAW.exists():
        raise InputError(f"{RAW} does not exist.", expected="images that were split", remedy="dvc repro split")
    kept = records if test else records[records["split"] != "test"]
    return kept.drop(columns="split").reset_index(drop=True)
