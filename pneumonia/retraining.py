"""Retrain as CI does: run the pipeline, and say what its model has over the one of another commit."""

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from pneumonia.comparison import compare_with, describe_difference, tabulate_scores, trace_losses, trace_roc
from pneumonia.errors import InputError
from pneumonia.experiments import check_recipes
from pneumonia.params import load_params
from pneumonia.report import render


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


def _find_commit(revision: str) -> str:
    command = ["git", "rev-parse", "--verify", f"{revision}^{{commit}}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _has_remote() -> bool:
    return subprocess.run(["dvc", "remote", "default"], capture_output=True, check=False).returncode == 0


def _forget_stores() -> dict[str, str]:
    """Return the environment without a tracking server: what is run again only to compare with is no new run."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_TRACKING", "DVC_EXP"))}
