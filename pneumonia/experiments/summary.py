"""Write the summary of a retraining: a Markdown page for a pull request or the summary of a job."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from dvc.api import DVCFileSystem

from pneumonia.experiments.judgement import Judgement
from pneumonia.reporting.render import render

ROC_STEPS = 21  # points of a curve: every 0.05 of the false positive rate


def write_failure(path: Path, baseline: str, failure: str) -> None:
    """Write the summary of a retraining that did not finish."""
    render("retraining.md", path, {"baseline": baseline, "failure": failure}, "pneumonia.experiments")


def write_judgement(path: Path, judgement: Judgement, commit: str, warnings: list[str], notice: str) -> None:
    """Write the summary of a judgement, and DVC's plots of both models into the folder `plots` beside it.

    What DVC cannot compare becomes a warning in the summary; the verdict does not depend on it.

    Args:
        path: Markdown file to write.
        judgement: with its verdict, checks and gains.
        commit: baseline to compare parameters, metrics and plots with; empty without one.
        warnings: shown first.
        notice: of the data, empty for none.
    """
    page: dict[str, Any] = {
        "baseline": judgement.baseline, "failure": "", "judgement": judgement, "warnings": warnings, "notice": notice,
        "params": None, "metrics": None, "gains": [], "roc": [], "losses": [],
    }  # fmt: skip
    if commit:
        shown = {kind: _diff(kind, commit, "--md", warnings=warnings) for kind in ("params", "metrics")}
        page |= {kind: table and table.replace(commit, judgement.baseline) for kind, table in shown.items()}
        _diff("plots", commit, "-q", "-o", str(path.parent / "plots"), warnings=warnings)
    if not judgement.images.empty:
        gains = zip(judgement.gains.index, judgement.gains.to_numpy(), strict=True)
        page |= {"gains": [(name, *row) for name, row in gains]}
        page |= {"roc": trace_roc(judgement.images), "losses": _trace_losses(commit)}
    render("retraining.md", path, page, "pneumonia.experiments")


def trace_roc(images: pd.DataFrame) -> list[list[float]]:
    """Return the sensitivity of the baseline and of the retrained model at ROC_STEPS false positive rates, 0 to 1."""
    from sklearn.metrics import roc_curve  # slow to import, and most commands draw no curve

    def trace(model: str) -> list[float]:
        rates, sensitivities, _ = roc_curve(images["actual"], images[f"finetuned_{model}"])
        return np.interp(np.linspace(0, 1, ROC_STEPS), rates, sensitivities).round(4).tolist()

    return [trace("champion"), trace("challenger")]


def _trace_losses(commit: str) -> list[list[float]]:
    # The validation loss of both after each epoch of fine-tuning, as far as both have one.
    histories = []
    for revision in (commit, None):
        with DVCFileSystem(rev=revision).open("reports/finetune_history.csv") as file:
            histories.append(pd.read_csv(file)["val_loss"].round(4).tolist())
    epochs = min(map(len, histories))
    return [history[:epochs] for history in histories]


def _diff(kind: str, commit: str, *options: str, warnings: list[str]) -> str | None:
    # Returns what `dvc params|metrics|plots diff` prints; with --md, a table without rows becomes "".
    done = subprocess.run(["dvc", kind, "diff", commit, *options], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        warnings.append(f"`dvc {kind} diff` failed, so this summary goes without it. The log holds its message.")
        print(f"warning: dvc {kind} diff failed", file=sys.stderr)
        return None
    table = done.stdout.strip()
    return table if len(table.splitlines()) > 2 else ""
