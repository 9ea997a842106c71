"""Say what the model of this workspace has over the one of another commit, from what DVC keeps of both."""

import json
import subprocess
from dataclasses import dataclass

import numpy as np
import pandas as pd
import yaml
from dvc.api import DVCFileSystem

from pneumonia.core.errors import InputError
from pneumonia.core.params import Gates
from pneumonia.registry.gate import Check, Evidence, check_against, check_floors, find_common_images, measure_gains

ROC_STEPS = 21  # points of a curve in the summary: every 0.05 of the false positive rate


@dataclass(frozen=True)
class Comparison:
    """What a retrained model was asked for, and what it has over the model of a base.

    Attributes:
        base: name of that commit.
        checks: as of the registry's gate, the base in the champion's place.
        images: test images of both with what each model says of them; empty where the models cannot be compared.
        gains: metrics of the retrained model less those of the base on these images, with paired intervals.
    """

    base: str
    checks: list[Check]
    images: pd.DataFrame
    gains: pd.DataFrame

    @property
    def failed(self) -> list[Check]:
        """Return what was not reached."""
        return [check for check in self.checks if not check.passed]

    @property
    def verdict(self) -> str:
        """Return the outcome in a few words."""
        if self.failed:
            return "refused"
        if self.images.empty:
            return f"accepted on its floors alone, not comparable with {self.base}"
        if (self.images["finetuned_champion"] == self.images["finetuned_challenger"]).all():
            return f"the same as {self.base}"
        return f"better than {self.base}" if self.gains["low"]["roc_auc"] > 0 else f"no worse than {self.base}"

    @property
    def reason(self) -> str:
        """Return which checks failed, and by what value."""
        return "; ".join(f"{check.what} {check.bound}: it is {check.value}" for check in self.failed)


def find_evidence(revision: str | None, name: str) -> Evidence:
    """Return what a commit, or with None the workspace, says of its model.

    Raises:
        InputError: an output of it is neither in DVC's cache nor in its remote.
    """
    files = DVCFileSystem(rev=revision)
    try:
        metrics = json.loads(files.read_text("reports/metrics.json"))["finetuned"]
        crossing = json.loads(files.read_text("reports/split.json"))["crossing_patients"]
        source = yaml.safe_load(files.read_text("params.yaml"))["data"]["source"]
        with files.open("reports/evaluation/predictions.csv") as file:
            predictions = pd.read_csv(file, dtype={"sha256": "str", "patient_id": "str"})
    except (OSError, KeyError) as error:
        raise InputError(
            f"The model of {name} cannot be judged: {error}.", expected="outputs of its pipeline", remedy="dvc pull"
        ) from error
    return Evidence(name, metrics, source == "phantom", crossing, lambda: predictions)


def compare_with(commit: str, name: str, gates: Gates) -> Comparison:
    """Judge the model of the workspace by the gate, with the model of a commit, if there is one, as champion."""
    ours = find_evidence(None, "this run")
    checks, nothing = check_floors(ours, gates), pd.DataFrame()
    if not commit:
        return Comparison(name, checks, nothing, nothing)
    base = find_evidence(commit, name)
    checks += check_against(base, ours, gates)
    images = find_common_images(base, ours)
    if images["actual"].nunique() < 2:
        return Comparison(name, checks, nothing, nothing)
    return Comparison(name, checks, images, measure_gains(images, base, ours))


def tabulate_scores(comparison: Comparison) -> list[tuple[str, float, float, float]]:
    """Return the gain in each metric and the ends of its interval."""
    return [(str(name), *row) for name, row in zip(comparison.gains.index, comparison.gains.to_numpy(), strict=True)]


def trace_roc(images: pd.DataFrame) -> list[list[float]]:
    """Return the sensitivity of base and retrained model at ROC_STEPS false positive rates from 0 to 1."""
    from sklearn.metrics import roc_curve

    def trace(model: str) -> list[float]:
        rates, sensitivities, _ = roc_curve(images["actual"], images[f"finetuned_{model}"])
        return np.interp(np.linspace(0, 1, ROC_STEPS), rates, sensitivities).round(4).tolist()

    return [trace("champion"), trace("challenger")]


def trace_losses(commit: str) -> list[list[float]]:
    """Return the validation loss of base and retrained model after each epoch of fine-tuning that both have."""
    histories = []
    for revision in (commit, None):
        with DVCFileSystem(rev=revision).open("reports/finetune_history.csv") as file:
            histories.append(pd.read_csv(file)["val_loss"].round(4).tolist())
    epochs = min(map(len, histories))
    return [history[:epochs] for history in histories]


def describe_difference(kind: str, commit: str, name: str) -> str:
    """Return `dvc metrics diff` or `dvc params diff` of a commit and the workspace as a Markdown table, if any row."""
    command = ["dvc", kind, "diff", commit, "--md"]
    table = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    return table.replace(commit, name) if len(table.splitlines()) > 2 else ""
