"""Recipes are compared on the test split, sweeps are ranked on validation, and the workspace stays as it is."""

import re
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from projects import run, set_params

# The fewest pixels that each backbone takes.
SEED_SYSTEMS = {"inception_v3": 75, "densenet121_cyclical": 32, "resnet34_one_cycle": 32, "resnet101_cam": 32}


def commit(project: Path) -> None:
    run("git", "add", "-A", cwd=project)
    run("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "changed", cwd=project)


def pneumonia(project: Path, *arguments: str, check: bool = True):
    return run(sys.executable, "-m", "pneumonia", *arguments, cwd=project, check=check)


@pytest.mark.parametrize("recipe", SEED_SYSTEMS)
def test_one_command_runs_a_seed_system_on_the_phantom_without_any_download(project: Path, recipe: str) -> None:
    settings = [
        f"recipe={recipe}", "data.images=64", "model.weights=none", f"model.image_size={SEED_SYSTEMS[recipe]}",
        "augment.views=2", "train.epochs=1", "finetune.epochs=1",
    ]  # fmt: skip
    done = run("dvc", "exp", "run", *(part for s in settings for part in ("-S", s)), cwd=project)
    assert re.findall(r"Running stage '(\w+)'", done.stdout)[-1] == "register"
    assert (project / "reports" / "evaluation" / "heatmaps.png").exists()


def forget(project: Path, stage: str, path: str) -> None:
    """Delete an output from workspace and cache, as in a clone in which nothing has run."""
    outs = yaml.safe_load((project / "dvc.lock").read_text())["stages"][stage]["outs"]
    md5 = next(out["md5"] for out in outs if out["path"] == path)
    for gone in (project / path, project / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]):
        gone.unlink()


def test_both_ways_of_balancing_are_compared_in_one_table_by_one_command(finished: Path) -> None:
    forget(finished, "evaluate", "reports/metrics.json")
    before = (finished / "params.yaml").read_text(), (finished / "dvc.lock").read_text()
    pneumonia(finished, "compare", "default", "--over", "augment.balance=undersample,augment")
    table = pd.read_csv(finished / "reports" / "comparison.csv")
    assert table["experiment"].tolist() == ["default-augment-balance-undersample", "default-augment-balance-augment"]
    assert set(table["split"]) == {"patient"}
    assert (table[["roc_auc", "f1", "training_seconds", "parameters", "trainable"]] > 0).all(axis=None)
    assert (finished / "reports" / "comparison.png").stat().st_size > 10_000
    assert ((finished / "params.yaml").read_text(), (finished / "dvc.lock").read_text()) == before


def test_a_recipe_that_does_not_exist_is_named_with_those_that_do(project: Path) -> None:
    said = pneumonia(project, "compare", "resnet18", check=False).stderr
    assert "There is no recipe 'resnet18'" in said
    assert "resnet34_one_cycle" in said


def test_a_sweep_is_ranked_on_validation_with_what_differs_and_nothing_of_test(finished: Path) -> None:
    set_params(finished, {"finetune": {"epochs": 1}})
    commit(finished)
    sweep = ("-S", "finetune.from_layer=conv3,conv2", "-S", "finetune.learning_rate=0.01,0.02")
    run("dvc", "exp", "run", "--queue", *sweep, "finetune", cwd=finished)
    run("dvc", "exp", "run", "--run-all", cwd=finished)
    ranked = pneumonia(finished, "rank").stdout
    header, *rows = ranked.splitlines()
    columns = header.split()
    assert columns[:3] == ["experiment", "finetune.from_layer", "finetune.learning_rate"]
    assert "test" not in ranked
    assert len(rows) == 4
    losses = [float(row.split()[1 + columns.index("best_val_loss")]) for row in rows]
    assert losses == sorted(losses)


def test_without_any_experiment_ranking_says_how_to_run_one(finished: Path) -> None:
    assert "dvc exp run --queue" in pneumonia(finished, "rank", check=False).stderr
