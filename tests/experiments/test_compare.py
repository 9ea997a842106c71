"""One command runs a recipe, another compares recipes, DVC ranks sweeps on validation; only the first registers."""

import csv
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient
from projects import ROOT, run

from pneumonia.core.errors import InputError
from pneumonia.experiments.compare import run_recipes

SWEEP = "finetune.from_layer=conv3,conv2"


def read_registry(project: Path) -> tuple[list[str], dict[str, str]]:
    """Return all versions in a project's own store, and the aliases."""
    client = MlflowClient(f"sqlite:///{project / 'mlruns' / 'mlflow.db'}")
    (model,) = client.search_registered_models()
    versions = client.search_model_versions(f"name = '{model.name}'")
    aliases = client.get_registered_model(model.name).aliases
    return sorted(str(v.version) for v in versions), {alias: str(version) for alias, version in aliases.items()}


def compare(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run("python", "-m", "pneumonia", "compare", *arguments, cwd=project)


def forget(project: Path, stage: str, path: str) -> None:
    """Delete an output from workspace and cache, as in a clone in which nothing has run."""
    outs = yaml.safe_load((project / "dvc.lock").read_text())["stages"][stage]["outs"]
    md5 = next(out["md5"] for out in outs if out["path"] == path)
    for gone in (project / path, project / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]):
        gone.unlink()


@dataclass(frozen=True)
class Compared:
    """A project in which a sweep ran and the same variants were compared, with its registry after each step."""

    project: Path
    before: tuple[Any, ...]
    swept: tuple[Any, ...]
    after: tuple[Any, ...]
    kept: bool


@pytest.fixture(scope="module")
def compared(once: Path, tmp_path_factory: pytest.TempPathFactory) -> Compared:
    """Return a finished project after a queued sweep and a comparison of the same variants, which DVC restores."""
    project = shutil.copytree(once, tmp_path_factory.mktemp("compared") / "project", symlinks=True)
    run("git", "add", "-A", cwd=project)
    run("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "the pipeline ran", cwd=project)
    before = read_registry(project)
    run("dvc", "exp", "run", "--queue", "-S", SWEEP, "finetune", cwd=project)
    run("dvc", "exp", "run", "--run-all", cwd=project)
    swept = read_registry(project)
    forget(project, "evaluate", "reports/metrics.json")
    workspace = [project / name for name in ("params.yaml", "dvc.lock")]
    contents = [path.read_text() for path in workspace]
    compare(project, "default", "-S", SWEEP)
    kept = contents == [path.read_text() for path in workspace]
    return Compared(project, before, swept, read_registry(project), kept)


def test_queued_experiments_report_to_the_project_they_were_queued_in(compared: Compared) -> None:
    client = MlflowClient(f"sqlite:///{compared.project / 'mlruns' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("pneumonia")
    assert experiment
    runs = client.search_runs([experiment.experiment_id], "tags.phase = 'finetune' and tags.dvc_exp_name != ''")
    layers = {run.data.params["finetune.from_layer"] for run in runs if "compare" not in run.data.tags["dvc_exp_name"]}
    assert layers == {"conv3", "conv2"}


def test_variants_of_a_recipe_are_compared_in_one_table_and_one_figure(compared: Compared) -> None:
    table = pd.read_csv(compared.project / "reports" / "comparison.csv")
    assert table["experiment"].tolist() == ["default-finetune-from_layer-conv3", "default-finetune-from_layer-conv2"]
    assert set(table["split"]) == {"patient"}
    assert (table[["roc_auc", "f1", "training_seconds", "parameters", "trainable"]] > 0).all(axis=None)
    assert table["trainable"].is_unique
    assert (compared.project / "reports" / "comparison.png").stat().st_size > 10_000


def test_a_comparison_leaves_the_workspace_as_it_is(compared: Compared) -> None:
    assert compared.kept


def test_sweeps_and_comparisons_move_no_alias_and_register_nothing(compared: Compared) -> None:
    assert compared.before[0] == ["1"] and compared.before[1]["champion"] == "1"
    assert compared.swept == compared.before
    assert compared.after == compared.before


def test_a_comparison_registers_its_models_when_asked_to(compared: Compared) -> None:
    other = "finetune.from_layer=conv2"  # conv3 is what the default trains from
    compare(compared.project, "default", "-S", other, "--register", "--out", "reports/registered")
    versions, _ = read_registry(compared.project)
    assert versions == ["1", "2"]


def test_the_documented_command_ranks_a_sweep_on_validation_and_shows_nothing_of_test(compared: Compared) -> None:
    (documented,) = re.findall(r"^dvc exp show .+$", (ROOT / "docs" / "recipes.md").read_text(), re.MULTILINE)
    shown = run(*shlex.split(documented, comments=True), "--csv", cwd=compared.project).stdout
    rows = [row for row in csv.DictReader(shown.splitlines()) if row["typ"].startswith("branch")]
    losses = [float(row["reports/finetune.json:val_loss"]) for row in rows]
    assert {row["finetune.from_layer"] for row in rows} == {"conv3", "conv2"}
    assert losses == sorted(losses)
    assert "metrics.json" not in shown


def test_a_recipe_that_does_not_exist_is_named_with_those_that_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(InputError, match=r"There is no recipe 'resnet18'(.|\n)*resnet34_one_cycle"):
        run_recipes(["resnet18"], [])


def test_a_setting_that_cannot_be_parsed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(InputError, match="A setting cannot be parsed"):
        run_recipes(["default"], ["augment.zoom=[1,2"])
