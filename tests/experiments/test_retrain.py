"""What a retrained model is called, and what the summary says whatever happens."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from projects import ROOT, clean_environment, run, set_params
from swaps import METRICS, MODEL, find_object, swap_model
from versions import draw_images, predict
from waiting import wait_for

from pneumonia.core.errors import InputError
from pneumonia.core.params_file import load_params
from pneumonia.experiments.baseline import reproduce
from pneumonia.experiments.judgement import Judgement, read_gates
from pneumonia.experiments.retrain import list_changes, retrain, run_pipeline
from pneumonia.experiments.summary import trace_roc, write_judgement
from pneumonia.registry.checks import Check
from pneumonia.registry.evaluated import ReplacedError
from pneumonia.registry.evidence import Evidence, measure_gains

IMAGES = draw_images()


def judge(base: pd.DataFrame, ours: pd.DataFrame, *checks: Check) -> Judgement:
    images = base.drop(columns="finetuned").assign(
        finetuned_champion=base["finetuned"], finetuned_challenger=ours["finetuned"]
    )
    models = [Evidence(name, {"threshold": 0.5}, False, 0, "", None) for name in ("main", "this run")]
    return Judgement("main", list(checks), images, measure_gains(images, *models))


def test_a_model_whose_interval_lies_above_zero_is_better_and_one_around_it_no_worse() -> None:
    assert judge(predict(IMAGES, 0.8), predict(IMAGES, 0.2)).verdict == "better than main"
    assert judge(predict(IMAGES, 0.5), predict(IMAGES, 0.5, seed=1)).verdict == "no worse than main"


def test_a_model_with_the_same_score_for_every_image_is_called_the_same() -> None:
    assert judge(predict(IMAGES, 0.5), predict(IMAGES, 0.5)).verdict == "the same as main"


def test_a_model_that_fails_a_check_is_refused_for_that_reason_whatever_it_gains() -> None:
    floor = Check("sensitivity at least", 0.7, 0.8, False)
    refused = judge(predict(IMAGES, 0.8), predict(IMAGES, 0.2), Check("roc_auc at least", 0.9, 0.8, True), floor)
    assert (refused.verdict, refused.reason) == ("refused", "sensitivity at least 0.8: it is 0.7")


def test_the_curves_in_the_summary_are_those_of_both_models() -> None:
    base, ours = trace_roc(judge(predict(IMAGES, 50), predict(IMAGES, 0.0)).images)
    assert ours == [1.0] * 21
    assert np.mean(base) == pytest.approx(0.5, abs=0.15)
    assert (base[0], base[-1]) == (pytest.approx(0, abs=0.1), 1.0)


def test_a_gain_without_an_interval_is_shown_as_such(inside: Path, tmp_path: Path) -> None:
    judgement = judge(predict(IMAGES, 0.5), predict(IMAGES, 0.4))
    assert judgement.gains["low"].isna().any()
    write_judgement(tmp_path / "summary.md", judgement, "HEAD", [], "")
    assert "nan" not in (tmp_path / "summary.md").read_text()


@pytest.fixture(scope="module")
def shared(once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished project with a commit that lists its outputs, for tests that leave no trace in it."""
    project = shutil.copytree(once, tmp_path_factory.mktemp("retraining") / "project", symlinks=True)
    run("git", "add", "-A", cwd=project)
    run("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "the pipeline ran", cwd=project)
    return project


@pytest.fixture
def inside(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in the shared project, with the commands of this environment."""
    monkeypatch.chdir(shared)
    monkeypatch.setenv("PATH", clean_environment()["PATH"])
    return shared


def read_git(project: Path) -> list[str]:
    return [run("git", *c.split(), cwd=project).stdout for c in ("branch -a", "status --short", "log")]


# Before each real `dvc` command that matches, something happens to it: a fault no argument could cause.
FAULT = """#!/bin/sh
case "$*" in
  {commands}) {action};;
esac
exec {dvc} "$@"
"""
INTERRUPT = "sleep 0.2; kill -INT $PPID; exit 130"


@pytest.fixture
def summary(inside: Path) -> Path:
    """Return the path of the summary; an earlier retraining called its model better."""
    path = inside / "reports" / "retraining" / "summary.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text("# Retraining: better than main\n")
    return path


def test_metrics_of_the_baseline_that_were_replaced_in_the_cache_are_refused(inside: Path, summary: Path) -> None:
    cached = Path(".dvc/cache") / find_object(METRICS)
    before, mode = cached.read_bytes(), cached.stat().st_mode
    cached.chmod(0o644)
    cached.write_bytes(before.replace(b'"roc_auc": ', b'"roc_auc": 0'))
    cached.chmod(mode)
    try:
        with pytest.raises(ReplacedError, match=f"{METRICS} is not what the pipeline made"):
            retrain("HEAD", "", "", "", summary.parent)
    finally:
        cached.chmod(0o644)
        cached.write_bytes(before)
        cached.chmod(mode)
    assert "is not what the pipeline made" in summary.read_text()


@pytest.mark.parametrize("base, commands, action, error, said", [
    ("HEAD", "checkout*", INTERRUPT, KeyboardInterrupt, "It was interrupted."),
    ("HEAD", "plots\\ diff*", INTERRUPT, KeyboardInterrupt, "It was interrupted."),
    ("nowhere", "repro\\ report", INTERRUPT, KeyboardInterrupt, "It was interrupted."),
    ("nowhere", "repro\\ report", "exit 1", InputError, "The pipeline failed."),
    ("nowhere", "repro\\ report", "echo {} >reports/split.json; exit", InputError, "split.json is not what the"),
    ("nowhere", "repro\\ report", "echo {} >reports/metrics.json; exit", InputError, "metrics.json is not the file"),
])  # fmt: skip
def test_a_step_that_fails_or_is_interrupted_is_what_the_summary_says(
    base: str, commands: str, action: str, error: type[BaseException], said: str, inside: Path, summary: Path,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    inject(FAULT.format(commands=commands, action=action, dvc=ROOT / ".venv/bin/dvc"), tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(error):
        retrain(base, "", "", "", summary.parent)
    written = summary.read_text()
    assert written.startswith("# Retraining: it did not finish\n")
    assert said in written


def test_an_error_that_nobody_foresaw_is_named_by_its_kind(
    inside: Path, summary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("what")

    inject(FAULT.format(commands="repro\\ report", action="exit", dvc=ROOT / ".venv/bin/dvc"), tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("pneumonia.experiments.retrain.ensure_digests", fail)
    with pytest.raises(ValueError, match="what"):
        retrain("nowhere", "", "", "", summary.parent)
    assert "ValueError: what" in summary.read_text()


def test_a_model_that_was_replaced_with_all_that_goes_with_it_is_refused(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inject(FAULT.format(commands="repro\\ report", action="exit", dvc=""), tmp_path)  # as if DVC saw no change
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.chdir(finished)
    swap_model()
    with pytest.raises(ReplacedError, match=f"{MODEL} is not what the pipeline made"):
        retrain("nowhere", "", "", "", tmp_path / "out")


def test_a_comparison_that_dvc_cannot_draw_is_a_warning_and_the_verdict_stands(
    inside: Path, summary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inject(FAULT.format(commands="*diff*", action="exit 1", dvc=ROOT / ".venv/bin/dvc"), tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    retrain("HEAD", "", "", "", summary.parent)
    written = summary.read_text()
    assert written.startswith("# Retraining: the same as HEAD\n")
    assert all(f"`dvc {kind} diff` failed" in written for kind in ("params", "metrics", "plots"))


def inject(fault: str, folder: Path) -> None:
    """Put a script in the place of `dvc`."""
    (folder / "dvc").write_text(fault)
    (folder / "dvc").chmod(0o755)


def test_a_commit_that_does_not_exist_is_named(inside: Path) -> None:
    with pytest.raises(InputError, match="no commit 'nowhere'"):
        reproduce("nowhere")


def test_a_commit_whose_pipeline_fails_is_named(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished)
    monkeypatch.setenv("PATH", clean_environment()["PATH"])
    set_params(finished, {"split": {"seed": -1}})
    run("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qam", "broken", cwd=finished)
    with pytest.raises(InputError, match="The pipeline of HEAD failed"):
        reproduce("HEAD")
    assert "split.seed is -1" in capfd.readouterr().err


def test_settings_that_cannot_be_parsed_are_an_error() -> None:
    with pytest.raises(InputError, match="cannot be parsed"):
        list_changes("", "a='b", "")


@pytest.mark.parametrize("settings", [
    "register.gates.margin_roc_auc=1.0", "++register.gates.min_roc_auc=0", "'+register.gates.new=1'", "~register",
    "params.yaml:register.gates.margin_roc_auc=1.0", "conf/config.yaml:register.gates.margin_roc_auc=1.0",
    "finetune.epochs=2 register={gates:{}}", "register@_global_=none", "'dvc.yaml:stages.fetch.cmd=touch pwned'",
    "hydra.searchpath=[x]", "++train.seed=1", "recipe@register=sly", "'finetune.epochs = 2'",
])  # fmt: skip
def test_settings_that_change_a_gate_or_a_file_are_refused(settings: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(InputError, match="changes more than parameters of the model"):
        list_changes("", settings, "")


def test_a_recipe_that_changes_a_gate_is_refused(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished)
    monkeypatch.setenv("PATH", clean_environment()["PATH"])
    recipe = "# @package _global_\nrecipe: sly\nregister:\n  gates:\n    min_sensitivity: 0.1\n"
    Path("conf/recipe/sly.yaml").write_text(recipe)
    with pytest.raises(InputError, match="The recipe changes more than parameters"):
        retrain("nowhere", "sly", "", "", Path("reports/retraining"))


@pytest.mark.parametrize("settings, source", [
    ("data.path=${oc.env:MLFLOW_TRACKING_PASSWORD}", ""), ("'train.seed=${finetune.seed}'", ""), ("", "${oc.env:HOME}"),
])  # fmt: skip
def test_settings_that_hydra_would_replace_are_refused(
    settings: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(InputError, match=r"A setting holds \$\{"):
        list_changes("", settings, source)


def test_a_recipe_that_reads_the_environment_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("conf/recipe").mkdir(parents=True)
    Path("conf/recipe/sly.yaml").write_text("# @package _global_\ndata:\n  path: ${oc.env:MLFLOW_TRACKING_PASSWORD}\n")
    with pytest.raises(InputError, match=r"conf/recipe/sly\.yaml holds \$\{oc\.env:MLFLOW_TRACKING_PASSWORD\}"):
        list_changes("sly", "", "")


def test_the_gates_are_those_of_the_baseline_and_new_ones_those_of_this_commit(inside: Path) -> None:
    ours = load_params().register_.gates
    softer = ours.model_copy(update={"min_sensitivity": 0.5, "margin_roc_auc": 0.9})
    assert read_gates("HEAD", softer) == ours


def test_a_parameter_that_does_not_exist_is_an_error(inside: Path) -> None:
    with pytest.raises(InputError, match="The pipeline failed"):
        run_pipeline(["no.such=1"])


def test_a_baseline_that_was_run_before_is_restored_without_training_and_leaves_no_branch(
    inside: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = read_git(inside)
    reproduce("HEAD")
    assert "Running stage" not in capfd.readouterr().out
    assert before == read_git(inside)


def test_an_interrupted_retraining_says_so_leaves_nothing_half_done_and_resumes(finished: Path) -> None:
    shutil.rmtree(finished / ".cache" / "training")  # the finished ones
    set_params(finished, {"train": {"epochs": 20}})
    run("git", "add", "-f", "dvc.lock", "params.yaml", "conf", cwd=finished)
    run("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "longer", cwd=finished)
    before, summary = read_git(finished), finished / "reports" / "retraining" / "summary.md"
    interrupted = subprocess.Popen(
        ["python", "-m", "pneumonia", "retrain", "--base", "nowhere"], cwd=finished, env=clean_environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0,
    )  # fmt: skip
    wait_for(finished, ".cache/training/train-*/history.json")
    assert "It was killed, or is still running." in summary.read_text()
    os.killpg(interrupted.pid, signal.SIGINT)
    interrupted.communicate(timeout=180)
    assert interrupted.returncode
    assert "It was interrupted." in summary.read_text()
    assert before == read_git(finished)
    assert "Resuming after epoch" in run("dvc", "repro", "train", cwd=finished).stdout
