"""Run recipes as DVC experiments and set them side by side."""

import json
import re
import subprocess
from itertools import product
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import yaml
from dvc.api import DVCFileSystem

from pneumonia.core.errors import InputError
from pneumonia.tracking.connection import connect, reaching

RECIPES = Path("conf/recipe")
TESTED = ("roc_auc", "f1", "sensitivity", "specificity", "accuracy", "threshold")


def run_recipes(recipes: list[str], settings: list[str], over: str) -> list[str]:
    """Run recipes as DVC experiments, each in a copy of the workspace, which itself stays as it is.

    Args:
        recipes: names of files in conf/recipe.
        settings: `name=value` for all of them, as for `dvc exp run -S`.
        over: `name=value,value`: each recipe runs once with each value; empty for one run each.

    Returns:
        The names of the experiments; one of the same name is replaced.

    Raises:
        InputError: there is no such recipe, or an experiment failed.
    """
    check_recipes(recipes)
    name, _, values = over.partition("=")
    variants = [[f"{name}={value}"] for value in values.split(",")] if over else [[]]
    return [_run(recipe, [*settings, *variant], variant) for recipe, variant in product(recipes, variants)]


def check_recipes(recipes: list[str]) -> None:
    """Refuse names of recipes that are no file in conf/recipe.

    Raises:
        InputError: there is no such recipe.
    """
    known = sorted(path.stem for path in RECIPES.glob("*.yaml"))
    if unknown := [recipe for recipe in recipes if recipe not in known]:
        raise InputError(f"There is no recipe {unknown[0]!r}.", expected=", ".join(known), remedy="name one of these")


def _run(recipe: str, settings: list[str], variant: list[str]) -> str:
    name = re.sub(r"[^a-zA-Z0-9_]+", "-", "-".join(["compare", recipe, *variant]))
    subprocess.run(["dvc", "exp", "remove", "-q", name], capture_output=True, check=False)  # there may be none
    overrides = [part for setting in (f"recipe={recipe}", *settings) for part in ("-S", setting)]
    if subprocess.run(["dvc", "exp", "run", "--temp", "-n", name, *overrides], check=False).returncode:
        raise InputError(
            f"The experiment {name} failed.",
            expected="a pipeline that runs to its end; DVC says above what stopped it",
            remedy=f"dvc exp run {' '.join(overrides)}",
        )
    return name


def describe_experiment(name: str) -> dict[str, Any]:
    """Return what a DVC experiment is, reached on test, and took to train."""
    # `dvc.api.metrics_show` looks at the workspace too, and fails where nothing has run in it yet.
    files = DVCFileSystem(rev=name)
    params = yaml.safe_load(files.read_text("params.yaml"))
    tested = json.loads(files.read_text("reports/metrics.json"))["finetuned"]
    trained = json.loads(files.read_text("reports/finetune.json"))
    return {
        "experiment": name.removeprefix("compare-"),
        "backbone": params["model"]["backbone"],
        "split": params["split"]["strategy"],
        "source": params["data"]["source"],
        **{metric: tested[metric] for metric in TESTED},
        "training_seconds": find_seconds(name),
        "parameters": trained["parameters"],
        "trainable": trained["trainable_parameters"],
    }


def find_seconds(name: str) -> float:
    """Return how long both training phases of an experiment's model took where they ran, NaN where that is unknown."""
    runs = _search(f"tags.dvc_exp_name = '{name}' and tags.phase = 'finetune'")
    if runs.empty:
        return float("nan")
    made = _search(f"tags.model_sha256 = '{runs['tags.model_sha256'][0]}' and metrics.duration_seconds > 0")
    initial = made["tags.initial_run_id"][0] if len(made) else ""
    first = _search(f"attributes.run_id = '{initial}' and metrics.duration_seconds > 0")
    return sum(table["metrics.duration_seconds"][0] if len(table) else float("nan") for table in (first, made))


@reaching()
def _search(query: str) -> pd.DataFrame:
    return pd.DataFrame(mlflow.search_runs([connect()], query))
