"""Retrain as CI does: run the pipeline, and say what its model has over the one of another commit."""

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from dvc.api import DVCFileSystem

from pneumonia.errors import InputError
from pneumonia.experiments import check_recipes
from pneumonia.gate import Check, Evidence, check_against, check_floors, find_common_films, measure_gains
from pneumonia.params import Gates, load_params
from pneumonia.report import render

ROC_STEPS = 21  # points of a curve in the summary: every 0.05 of the false positive rate


@dataclass(frozen=True)
class Comparison:
    """What a retrained model was asked for, and what it has over the model of a base.

    Attributes:
        base: name of that commit.
        checks: as of the registry's gate, the base in the champion's place.
        films: test films of both with what each model says of them; empty where the models cannot be compared.
        gains: metrics of the retrained model less those of the base on these films, with paired intervals.
    """

    base: str
    checks: list[Check]
    films: pd.DataFrame
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
        if self.films.empty:
            return f"accepted on its floors alone, not comparable with {self.base}"
        if (self.films["finetuned_champion"] == self.films["finetuned_challenger"]).all():
            return f"the same as {self.base}"
        return f"better than {self.base}" if self.gains["low"]["roc_auc"] > 0 else f"no worse than {self.base}"

    @property
    def reason(self) -> str:
        """Return which checks failed, and by what value."""
        return "; ".join(f"{check.what} {check.bound}: it is {check.value}" for check in self.failed)


def retrain(base: str, recipe: str, settings: str, source: str, out: Path) -> None:
    """Retrain as CI does: run the pipeline up to the report, and compare its model with the one of another commit.

    Writes into the folder `out` a page for people, summary.md, and DVC's plots of both, plots/index.html.

    Args:
        base: the commit; where its pipeline fails, the model is judged by its floors alone, and the page says so.
        recipe, settings, source: what differs from the committed parameters, see `run_pipeline`; empty for nothing.

    Raises:
        InputError: the pipeline failed, or its model is worse than that of the base or below a floor.
    """
    name = base[:7] if re.fullmatch("[0-9a-f]{40}", base) else base.removeprefix("origin/")
    page: dict[str, Any] = {"base": name, "failure": "", "absent": "", "comparison": None}
    try:
        try:
            commit = reproduce(base)
        except InputError as error:
            commit, page["absent"] = "", str(error)
        run_pipeline(recipe, settings, source)
        params = load_params()
        comparison = page["comparison"] = compare_with(commit, name, params.register_.gates)
        page["notice"] = params.data.notice
        if commit:
            page |= {f"{kind}_diff": describe_difference(kind, commit, name) for kind in ("params", "metrics")}
            subprocess.run(["dvc", "plots", "diff", "-q", commit, "-o", str(out / "plots")], check=True)
        if not comparison.films.empty:
            page |= {"scores": tabulate_scores(comparison), "roc": trace_roc(comparison.films)}
            page |= {"losses": trace_losses(commit)}
    except InputError as error:
        page["failure"] = str(error)
        raise
    finally:
        render("retraining.md", out / "summary.md", page)
    print(f"This model is {comparison.verdict}. {out / 'summary.md'} says more.")
    if comparison.failed:
        raise InputError(
            f"This model is refused: {comparison.reason}.",
            expected=f"all gates passed, with the model of {name} in the champion's place",
            remedy="leave it, or change register.gates for a reason that the reviewer can read",
        )


def reproduce(revision: str) -> str:
    """Run the pipeline of a commit in a clone of its own, up to the report.

    The clone shares this project's DVC cache, so what was ever run here is not run again. It is deleted afterwards.

    Returns:
        A commit that no branch holds, whose dvc.lock names the outputs.

    Raises:
        InputError: there is no such commit, or its pipeline fails.
    """
    try:
        commit = _find_commit(revision)
    except subprocess.CalledProcessError:
        raise InputError(
            f"There is no commit {revision!r}.", expected="one that this clone holds", remedy="git fetch --unshallow"
        ) from None
    with tempfile.TemporaryDirectory() as folder:
        run = partial(subprocess.run, cwd=folder, check=True, env=_forget_stores())
        subprocess.run(["git", "clone", "-q", "--shared", "--no-checkout", ".", folder], check=True)
        run(["git", "checkout", "-q", "--detach", commit])
        if (settings := Path(".dvc/config.local")).exists():  # may name a remote and hold its credentials
            shutil.copy(settings, Path(folder, settings))
        run(["dvc", "cache", "dir", "-q", "--local", str(Path(".dvc/cache").resolve())])
        try:
            run(["dvc", "pull" if _has_remote() else "checkout", "-q", "--allow-missing"])
            run(["dvc", "repro", "report"])
        except subprocess.CalledProcessError:
            raise InputError(
                f"The pipeline of {revision} does not come to its end.",
                expected="a commit that can be reproduced here",
                remedy=f"git switch --detach {revision} && dvc repro report",
            ) from None
        run(["git", "add", "dvc.lock"])
        identity = ("-c", "user.name=retraining", "-c", "user.email=retraining@localhost")
        run(["git", *identity, "commit", "-q", "--allow-empty", "--no-verify", "-m", f"Reproduce {revision}"])
        subprocess.run(["git", "fetch", "-q", folder, "HEAD"], check=True)
    return _find_commit("FETCH_HEAD")


def run_pipeline(recipe: str, settings: str, source: str) -> None:
    """Run the pipeline up to the report; with other parameters than the committed ones as a DVC experiment.

    Args:
        recipe: name of a file in conf/recipe, empty for the committed parameters.
        settings: `name=value` separated by blanks, quoted as in a shell.
        source: value of data.source.

    Raises:
        InputError: there is no such recipe, the settings cannot be taken apart, or a stage failed.
    """
    check_recipes([recipe] * bool(recipe))
    try:
        changes = shlex.split(settings)
    except ValueError as error:
        raise InputError(
            f"The settings {settings!r} cannot be taken apart: {error}.",
            expected="name=value, separated by blanks",
            remedy="close the quotation",
        ) from None
    changes = [f"recipe={recipe}"] * bool(recipe) + changes + [f"data.source={source}"] * bool(source)
    overrides = [part for change in changes for part in ("-S", change)]
    command = ["dvc", "exp", "run", *overrides, "report"] if overrides else ["dvc", "repro", "report"]
    if subprocess.run(command).returncode:
        raise InputError(
            "The pipeline did not come to its end.",
            expected="stages that succeed; DVC says above which one did not",
            remedy=shlex.join(command),
        )


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
    films = find_common_films(base, ours)
    if films["actual"].nunique() < 2:
        return Comparison(name, checks, nothing, nothing)
    return Comparison(name, checks, films, measure_gains(films, base, ours))


def tabulate_scores(comparison: Comparison) -> list[tuple[str, float, float, float]]:
    """Return the gain in each metric and the ends of its interval."""
    return [(str(name), *row) for name, row in zip(comparison.gains.index, comparison.gains.to_numpy(), strict=True)]


def trace_roc(films: pd.DataFrame) -> list[list[float]]:
    """Return the sensitivity of base and retrained model at ROC_STEPS false positive rates from 0 to 1."""
    from sklearn.metrics import roc_curve

    def trace(model: str) -> list[float]:
        rates, sensitivities, _ = roc_curve(films["actual"], films[f"finetuned_{model}"])
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


def _find_commit(revision: str) -> str:
    command = ["git", "rev-parse", "--verify", f"{revision}^{{commit}}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _has_remote() -> bool:
    return subprocess.run(["dvc", "remote", "default"], capture_output=True, check=False).returncode == 0


def _forget_stores() -> dict[str, str]:
    """Return the environment without a tracking server: what is run again only to compare with is no new run."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_TRACKING", "DVC_EXP"))}
