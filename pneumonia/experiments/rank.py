"""Rank the experiments of a sweep on validation."""

import pandas as pd

from pneumonia.core.errors import InputError
from pneumonia.core.params import Monitor
from pneumonia.experiments.compare import _search

# What a model's quality cannot depend on.
_IRRELEVANT = ("compute.", "cache.", "register.", "images.", "recipe")


def rank_experiments(by: Monitor) -> pd.DataFrame:
    """Return all fine-tuned DVC experiments that MLflow knows, best first by a metric of the kept epoch on validation.

    Of the parameters those are shown in which they differ.

    Raises:
        InputError: there is no experiment.
    """
    runs = _search("tags.phase = 'finetune'")
    runs = runs[runs["tags.dvc_exp_name"].notna()] if "tags.dvc_exp_name" in runs else runs[:0]
    if runs.empty:
        raise InputError(
            "MLflow knows no DVC experiment.",
            expected="runs of `dvc exp run`",
            remedy="dvc exp run --queue -S 'finetune.learning_rate=1e-4,3e-4' finetune && dvc exp run --run-all",
        )
    runs = runs.drop_duplicates("tags.dvc_exp_name")  # the latest stands first
    tuned = [c for c in sorted(runs.columns) if c.startswith("params.") and not c[7:].startswith(_IRRELEVANT)]
    shown = ["tags.dvc_exp_name", *(c for c in tuned if runs[c].nunique(dropna=False) > 1)]
    measured = [f"metrics.best_{name}" for name in ("val_loss", "val_auc", "val_f1", "val_accuracy")]
    ranked = runs.sort_values(f"metrics.best_{by}", ascending=by == "val_loss", kind="stable", ignore_index=True)
    return ranked[shown + measured].rename(columns=lambda c: c.partition(".")[2].replace("dvc_exp_name", "experiment"))
