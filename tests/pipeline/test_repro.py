"""The pipeline as its users drive it: real DVC, real MLflow, tiny phantom, tiny backbone."""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from dvc.repo import Repo
from mlflow import MlflowClient
from mlflow.entities import Run
from projects import clean_environment, link_environment, run, set_params
from waiting import wait_for

STAGES = ["fetch", "validate", "merge", "split", "augment", "train", "finetune", "evaluate", "report", "register"]


# Every Python process of the pipeline tells which other machines it asks for.
LISTENER = """
import sys
from pathlib import Path

def note(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        with Path({log!r}).open("a") as file:
            print(sys.argv, event, arguments[-1] if event == "socket.connect" else arguments[0], file=file)

Path({log!r}).touch()
sys.addaudithook(note)
"""


def repro(project: Path, *arguments: str) -> list[str]:
    """Run `dvc repro` and return the stages that were executed."""
    return re.findall(r"Running stage '(\w+)'", run("dvc", "repro", *arguments, cwd=project).stdout)


def edit(module: Path) -> None:
    with module.open("a") as file:
        file.write("\n# a comment\n")


def client(project: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{project / 'mlruns' / 'mlflow.db'}")


def runs(project: Path, query: str = "") -> list[Run]:
    store = client(project)
    experiment = store.get_experiment_by_name("pneumonia")
    assert experiment
    return list(store.search_runs([experiment.experiment_id], query, order_by=["attributes.start_time"]))


def metrics(project: Path) -> dict[str, Any]:
    return json.loads((project / "reports" / "metrics.json").read_text())


def test_every_output_named_in_dvc_yaml_exists_after_repro(once: Path) -> None:
    stages = yaml.safe_load((once / "dvc.yaml").read_text())["stages"]
    outputs = [out for stage in stages.values() for kind in ("outs", "metrics") for out in stage.get(kind, [])]
    assert [out for out in outputs if not (once / out).exists()] == []


def test_a_second_repro_runs_nothing_but_register_whatever_changed_in_the_docs(finished: Path) -> None:
    with (finished / "README.md").open("a") as readme:
        readme.write("\n<!-- a comment -->\n")
    said = run("dvc", "repro", cwd=finished).stdout
    assert re.findall(r"Running stage '(\w+)'", said) == ["register"]
    assert "everything is up to date" in said


def test_make_repro_runs_what_a_parameter_changes_and_shows_a_line_per_stage_and_the_result(finished: Path) -> None:
    link_environment(finished)
    set_params(finished, {"finetune": {"learning_rate": 0.02}})
    said = run("make", "repro", cwd=finished)
    lines = said.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines if line.startswith(tuple(f"{stage}:" for stage in STAGES))] == [
        "finetune", "evaluate", "report", "register",
    ]  # fmt: skip
    assert len([line for line in lines if "skipping" in line]) == 6
    assert not re.search("Running stage|> python", said.stdout + said.stderr)
    assert "champion: version" in said.stdout


@pytest.fixture(scope="module")
def forced(once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished project whose pipeline has run again; connections.log beside it lists connections."""
    project = shutil.copytree(once, (folder := tmp_path_factory.mktemp("forced")) / "project", symlinks=True)
    shutil.rmtree(project / ".cache")  # the frozen backbone computes every image again
    (folder / "sitecustomize.py").write_text(LISTENER.format(log=str(folder / "connections.log")))
    done = run("dvc", "repro", "--force", cwd=project, PYTHONPATH=str(folder))
    assert re.findall(r"Running stage '(\w+)'", done.stdout) == STAGES
    assert not re.search("oneDNN|absl", done.stdout + done.stderr)
    return project


def test_two_forced_runs_leave_the_same_lock(once: Path, forced: Path) -> None:
    assert (forced / "dvc.lock").read_bytes() == (once / "dvc.lock").read_bytes()


def test_nothing_connects_to_another_machine(forced: Path) -> None:
    assert (forced.parent / "connections.log").read_text() == ""


def test_code_that_changes_no_output_reruns_its_stage_and_none_that_follows(finished: Path) -> None:
    edit(finished / "pneumonia" / "evaluation" / "metrics.py")
    assert repro(finished) == ["evaluate", "register"]


def test_an_edit_reruns_the_stages_that_run_its_folder(finished: Path) -> None:
    found = {}
    for folder in sorted(path.parent.name for path in (finished / "pneumonia").glob("*/__init__.py")):
        module = finished / "pneumonia" / folder / "__init__.py"
        before = module.read_text()
        edit(module)
        with Repo(str(finished)) as repo:
            found[folder] = {name.rpartition(":")[2] for name in repo.status()} - {"register"}
        module.write_text(before)
    training, everything = {"train", "finetune"}, set(STAGES) - {"register"}
    assert found == {
        "core": everything,
        "sources": {"fetch"},
        "images": {"validate", "augment"},
        "records": {"validate", "merge", "split"},
        "augment": {"augment"},
        "models": training | {"evaluate"},
        "training": training,
        "inference": {"evaluate", "report"},
        "evaluation": {"evaluate"},
        "reporting": {"report"},
        **{folder: set() for folder in ("tracking", "registry", "serving", "crossval", "audit", "experiments", "cli")},
    }


def test_each_phase_is_a_run_with_a_metric_per_epoch(once: Path) -> None:
    train, finetune = runs(once)
    assert (train.data.tags["phase"], finetune.data.tags["phase"]) == ("train", "finetune")
    store = client(once)
    for phase in (train, finetune):
        assert [m.step for m in store.get_metric_history(phase.info.run_id, "val_auc")] == [1, 2]
        assert phase.data.params["train.learning_rate"] == "0.01"


def test_evaluation_adds_test_metrics_and_figures_to_both_runs(once: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(once)  # locations in the store are relative
    for phase, name in zip(runs(once), ("initial", "finetuned"), strict=True):
        assert phase.data.metrics["test_roc_auc"] == metrics(once)[name]["roc_auc"]
        figures = client(once).list_artifacts(phase.info.run_id, "figures")
        assert {Path(f.path).name for f in figures} >= {"roc.png", "learning_curves.png", "confusion.png"}


def test_the_finetune_run_names_its_initial_run(once: Path) -> None:
    train, finetune = runs(once)
    assert finetune.data.tags["initial_run_id"] == train.info.run_id


def test_everything_made_from_the_phantom_says_that_it_is_synthetic(once: Path) -> None:
    version = client(once).get_model_version_by_alias("pneumonia-classifier", "champion")
    said = [version.description, *(phase.data.tags["mlflow.note.content"] for phase in runs(once))]
    assert all(text == "Synthetic radiographs: no clinical meaning." for text in said)
    assert version.tags["synthetic"] == "True"


def test_a_version_is_tagged_with_where_it_comes_from(once: Path) -> None:
    version = client(once).get_model_version_by_alias("pneumonia-classifier", "challenger")
    commit = run("git", "rev-parse", "HEAD", cwd=once).stdout.strip()
    assert version.tags["git_commit"] == commit
    assert version.tags["data_source"] == "phantom"
    assert float(version.tags["test_roc_auc"]) == metrics(once)["finetuned"]["roc_auc"]


def test_restored_stages_are_recorded_from_their_files(finished: Path) -> None:
    for path in ("mlruns/mlflow.db", "models/initial.keras", "models/finetuned.keras"):
        (finished / path).unlink()
    assert repro(finished) == ["register"]
    assert [phase.data.tags["restored"] for phase in runs(finished)] == ["True", "True"]
    assert [m.step for m in client(finished).get_metric_history(runs(finished)[0].info.run_id, "loss")] == [1, 2]


def test_no_patient_is_on_two_sides(once: Path) -> None:
    table = pd.read_csv(once / "data" / "splits.csv")
    assert table.groupby("patient_id")["split"].nunique().max() == 1


def test_dvc_shows_params_metrics_and_plots(finished: Path) -> None:
    run("git", "add", "-f", "dvc.lock", cwd=finished)
    set_params(finished, {"train": {"epochs": 3}})
    assert "train.epochs" in run("dvc", "params", "diff", cwd=finished).stdout
    assert "finetuned.roc_auc" in run("dvc", "metrics", "show", cwd=finished).stdout
    page = run("dvc", "plots", "show", "-o", "plots", cwd=finished)
    assert (finished / "plots" / "index.html").exists(), page.stderr


def test_an_experiment_takes_its_parameter_and_names_its_runs(finished: Path) -> None:
    done = run("dvc", "exp", "run", "-n", "faster", "-S", "train.learning_rate=0.05", "train", cwd=finished)
    assert re.findall(r"Running stage '(\w+)'", done.stdout) == ["train"]
    (train,) = runs(finished, "tags.dvc_exp_name = 'faster'")
    assert train.data.params["train.learning_rate"] == "0.05"


def start(project: Path, *command: str, session: bool = False) -> subprocess.Popen[str]:
    """Start a command in a process group of its own; in a session of its own its stages are no warm processes."""
    return subprocess.Popen(
        command, cwd=project, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=session, process_group=None if session else 0,
    )  # fmt: skip


@pytest.mark.parametrize("kill", [os.killpg, os.kill], ids=["everything", "dvc alone"])
def test_a_killed_training_goes_on_after_its_last_finished_epoch(kill: Callable[..., None], finished: Path) -> None:
    set_params(finished, {"train": {"epochs": 60}})
    shutil.rmtree(finished / ".cache" / "training")  # the finished ones
    killed = start(finished, "dvc", "repro", "train", session=kill is os.kill)  # what dies with dvc is not warm
    wait_for(finished, ".cache/training/train-*/history.json")
    kill(killed.pid, signal.SIGKILL)
    killed.wait()
    resumed = run("dvc", "repro", "train", cwd=finished)  # at once: the stage may have half a second to live
    killed.communicate()
    assert "Resuming after epoch" in resumed.stdout
    assert len(pd.read_csv(finished / "reports" / "train_history.csv")) == 60
    assert len(runs(finished, "tags.phase = 'train'")) == 2  # the killed one was gone on with


def test_of_two_repros_at_once_one_is_told_to_wait(project: Path) -> None:
    set_params(project, {"data": {"images": 2000}})
    first = start(project, "dvc", "repro", "fetch")
    wait_for(project, "data/raw/train/*/*.jpeg")
    second = run("dvc", "repro", "fetch", cwd=project, check=False)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert second.returncode != 0
    assert "it is being blocked by" in second.stderr


def test_a_stage_that_fails_names_the_value_the_expectation_and_the_remedy(project: Path) -> None:
    set_params(project, {"split": {"seed": -1}})
    failed = run("dvc", "repro", "fetch", cwd=project, check=False)
    assert failed.returncode != 0
    assert "split.seed is -1" in failed.stderr
    assert "Expected: split.seed" in failed.stderr
    assert "Remedy:" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_missing_folder_is_named(project: Path) -> None:
    set_params(project, {"data": {"source": "folder", "path": "nowhere/images"}})
    failed = run("dvc", "repro", "fetch", cwd=project, check=False)
    assert failed.returncode != 0
    assert "nowhere/images" in failed.stderr
