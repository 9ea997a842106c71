"""Judge the model of this workspace against that of another commit, from the outputs that DVC keeps of both."""

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import yaml
from dvc.api import DVCFileSystem

from pneumonia.core.errors import InputError
from pneumonia.core.params import Gates
from pneumonia.core.tables import read_predictions
from pneumonia.registry.checks import Check, check_against, check_floors
from pneumonia.registry.evidence import Evidence, describe_split, find_common_images, measure_gains

# What a judgement reads, as dvc.yaml names it.
METRICS, SPLIT = Path("reports/metrics.json"), Path("reports/split.json")
PREDICTIONS = Path("reports/evaluation/predictions.csv")


@dataclass(frozen=True)
class Judgement:
    """What the registry's gate decides about a retrained model, with the baseline in the champion's place.

    Attributes:
        baseline: name of the commit compared with.
        checks: as of the gate.
        images: test images of both models with both scores; empty where the models cannot be compared.
        gains: metrics of the retrained model minus those of the baseline on these images, with paired intervals.
    """

    baseline: str
    checks: list[Check]
    images: pd.DataFrame
    gains: pd.DataFrame

    @property
    def failed(self) -> list[Check]:
        """Return the checks that did not pass."""
        return [check for check in self.checks if not check.passed]

    @property
    def verdict(self) -> str:
        """Return the outcome in a few words."""
        if self.failed:
            return "refused"
        if self.images.empty:
            return f"accepted on its floors alone, not comparable with {self.baseline}"
        if (self.images["finetuned_champion"] == self.images["finetuned_challenger"]).all():
            return f"the same as {self.baseline}"
        return f"better than {self.baseline}" if self.gains["low"]["roc_auc"] > 0 else f"no worse than {self.baseline}"

    @property
    def reason(self) -> str:
        """Return the failed checks with their values."""
        return "; ".join(f"{check.what} {check.bound}: it is {check.value}" for check in self.failed)


def judge_against(commit: str, name: str, gates: Gates) -> Judgement:
    """Judge the model of the workspace by the gate.

    Args:
        commit: its model takes the champion's place; without one, floors alone decide.
        name: of that commit, for people.
        gates: section `register.gates`.

    Raises:
        InputError: outputs of either pipeline are missing.
    """
    ours = find_evidence(None, "this run")
    checks, nothing = check_floors(ours, gates), pd.DataFrame()
    if not commit:
        return Judgement(name, checks, nothing, nothing)
    baseline = find_evidence(commit, name)
    checks += check_against(baseline, ours, gates)
    images = find_common_images(baseline, ours)
    if images["actual"].nunique() < 2:
        return Judgement(name, checks, nothing, nothing)
    return Judgement(name, checks, images, measure_gains(images, baseline, ours))


def read_gates(commit: str, ours: Gates) -> Gates:
    """Return the gates of a commit: whoever changes a gate is not judged by it.

    Args:
        commit: whose params.yaml to read.
        ours: gates of this commit, for those that the other does not know yet.
    """
    theirs = yaml.safe_load(DVCFileSystem(rev=commit).read_text("params.yaml"))["register"]["gates"]
    known = {name: value for name, value in theirs.items() if name in Gates.model_fields}
    return Gates.model_validate(ours.model_dump() | known)


def find_evidence(revision: str | None, name: str) -> Evidence:
    """Return the evidence about the model of a commit, or of the workspace where the revision is None.

    Raises:
        InputError: an output is neither in DVC's cache nor in its remote.
    """
    files = DVCFileSystem(rev=revision)
    try:
        metrics = json.loads(files.read_text(str(METRICS)))["finetuned"]
        crossing = json.loads(files.read_text(str(SPLIT)))["crossing_patients"]
        params = yaml.safe_load(files.read_text("params.yaml"))
        synthetic, drawn = params["data"]["source"] == "phantom", describe_split(params["split"])
        with files.open(str(PREDICTIONS), "rb") as file:
            predictions = read_predictions(file)  # pyright: ignore[reportArgumentType]
    except (OSError, KeyError) as error:
        raise InputError(
            f"The model of {name} cannot be judged: {error}.", expected="the outputs of its pipeline", remedy="dvc pull"
        ) from error
    return Evidence(name, metrics, synthetic, crossing, drawn, lambda: predictions)
