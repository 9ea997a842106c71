"""Run recipes as DVC experiments and collect their results."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import mlflow
import yaml
from dvc.api import DVCFileSystem
from dvc.utils.hydra import get_hydra_sweeps
from hydra.errors import OverrideParseException

from pneumonia.core.errors import InputError
from pneumonia.core.files import sha256_bytes
from pneumonia.experiments.dvc_lock import mend_lock
from pneumonia.tracking.connection import connect
from pneumonia.tracking.failures import reaching

RECIPES = Path("conf/recipe")
METRICS = ("roc_auc", "f1", "sensitivity", "specificity", "accuracy", "threshold")


def run_recipes(recipes: list[str], settings: list[str], register: bool = False) -> list[str]:
    """Run each recipe as a DVC experiment in a temporary copy of the workspace, which itself stays as it is.

    Args:
        recipes: names of files in conf/recipe.
        settings: `name=value` as for `dvc exp run -S`; `name=value,value` runs each recipe once per value.
        register: whether each experiment registers its model as a challenger.

    Returns:
        Names of the experiments; an earlier experiment of the same name is replaced.

    Raises:
        InputError: a recipe does not exist, a setting cannot be parsed, or an experiment fails.
    """
    mend_lock()
    variants = list_variants(recipes, settings)
    return [_run(overrides, varied, register) for overrides, varied in variants]


def list_variants(recipes: list[str], settings: list[str]) -> list[tuple[list[str], list[str]]]:
    """Return what is to be set for each recipe and value, `recipe=name` first, and what of it tells the variants apart.

    Args: as of `run_recipes`.

    Raises:
        InputError: a recipe does not exist, or a setting cannot be parsed.
    """
    check_recipes(recipes)
    try:
        sweep = get_hydra_sweeps({"params.yaml": [f"recipe={','.join(recipes)}", *settings]})
    except OverrideParseException as error:
        raise InputError(
            f"A setting cannot be parsed: {error}.", expected="name=value or name=value,value", remedy="correct it"
        ) from None
    variants = [variant["params.yaml"] for variant in sweep]
    common = set.intersection(*map(set, variants))
    return [(variant, [part for part in variant[1:] if part not in common]) for variant in variants]


def check_recipes(recipes: list[str]) -> None:
    """Check that recipes exist.

    Raises:
        InputError: a name is not that of a file in conf/recipe.
    """
    known = sorted(path.stem for path in RECIPES.glob("*.yaml"))
    if unknown := [recipe for recipe in recipes if recipe not in known]:
        raise InputError(f"There is no recipe {unknown[0]!r}.", expected=", ".join(known), remedy="name one of these")


def _run(overrides: list[str], varied: list[str], register: bool) -> str:
    recipe = overrides[0].removeprefix("recipe=")
    name = re.sub(r"[^a-zA-Z0-9_]+", "-", "-".join(["compare", recipe, *varied]))
    subprocess.run(["dvc", "exp", "remove", "-q", name], capture_output=True, check=False)  # there may be none
    options = [part for override in overrides for part in ("-S", override)]
    environment = os.environ | {"PNEUMONIA_REGISTER": str(register).lower()}
    if subprocess.run(["dvc", "exp", "run", "--temp", "-n", name, *options], env=environment).returncode:
        raise InputError(
            f"The experiment {name} failed.",
            expected="a pipeline that succeeds; DVC's message above names the stage that failed",
            remedy=f"dvc exp run {' '.join(options)}",
        )
    return name


def describe_experiment(name: str) -> dict[str, Any]:
    """Return the parameters of a DVC experiment that matter in a comparison, its test metrics, training time and size.

    Test metrics are those of the fine-tuned model. `training_seconds` is NaN where MLflow does not know the duration.
    """
    # `dvc.api.metrics_show` reads the workspace too, and fails where the pipeline has not run in it yet.
    files = DVCFileSystem(rev=name)
    params = yaml.safe_load(files.read_text("params.yaml"))
    metrics = json.loads(files.read_text("reports/metrics.json"))["finetuned"]
    trained = json.loads(files.read_text("reports/finetune.json"))
    models = {"train": "models/initial.keras", "finetune": "models/finetuned.keras"}
    return {
        "experiment": name.removeprefix("compare-"),
        "backbone": params["model"]["backbone"],
        "split": params["split"]["strategy"],
        "source": params["data"]["source"],
        **{metric: metrics[metric] for metric in METRICS},
        "training_seconds": sum(_find_seconds(phase, files.read_bytes(path)) for phase, path in models.items()),
        "parameters": trained["parameters"],
        "trainable": trained["trainable_parameters"],
    }


@reaching()
def _find_seconds(phase: str, model: Any) -> float:
    # Only MLflow keeps durations: a DVC output must not hold them, and an experiment that DVC restored has none.
    made = f"tags.phase = '{phase}' and tags.model_sha256 = '{sha256_bytes(model)}' and metrics.duration_seconds > 0"
    runs = mlflow.search_runs([connect()], made, max_results=1, output_format="list")
    return runs[0].data.metrics["duration_seconds"] if runs else float("nan")  # pyright: ignore
