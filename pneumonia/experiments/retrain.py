"""Retrain as CI does: run the pipeline, and say what its model has over the one of another commit."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

from pneumonia.core.errors import InputError
from pneumonia.core.params_file import load_params
from pneumonia.experiments.base import reproduce
from pneumonia.experiments.compare import check_recipes
from pneumonia.experiments.comparison import compare_with, describe_difference, tabulate_scores, trace_losses, trace_roc
from pneumonia.reporting.render import render


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
        if not comparison.images.empty:
            page |= {"scores": tabulate_scores(comparison), "roc": trace_roc(comparison.images)}
            page |= {"losses": trace_losses(commit)}
    except InputError as error:
        page["failure"] = str(error)
        raise
    finally:
        render("retraining.md", out / "summary.md", page, "pneumonia.experiments")
    print(f"This model is {comparison.verdict}. {out / 'summary.md'} says more.")
    if comparison.failed:
        raise InputError(
            f"This model is refused: {comparison.reason}.",
            expected=f"all gates passed, with the model of {name} in the champion's place",
            remedy="leave it, or change register.gates for a reason that the reviewer can read",
        )


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
