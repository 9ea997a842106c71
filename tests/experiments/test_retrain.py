"""What a retrained model is called, and what is left when a retraining is stopped."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from projects import clean_environment, run, set_params
from versions import draw_images, say
from waiting import wait_for

from pneumonia.core.errors import InputError
from pneumonia.core.params import Gates
from pneumonia.experiments.base import reproduce
from pneumonia.experiments.comparison import Comparison, compare_with, trace_roc
from pneumonia.experiments.retrain import run_pipeline
from pneumonia.registry.gate import Check, Evidence, measure_gains
from pneumonia.reporting.render import render

IMAGES = draw_images()


def compare(base: pd.DataFrame, ours: pd.DataFrame, *checks: Check) -> Comparison:
    images = base.drop(columns="finetuned").assign(
        finetuned_champion=base["finetuned"], finetuned_challenger=ours["finetuned"]
    )
    models = [Evidence(name, {"threshold": 0.5}, False, 0, None) for name in ("main", "this run")]
    return Comparison("main", list(checks), images, measure_gains(images, *models))


def test_a_model_whose_interval_lies_above_nothing_is_better_and_one_around_it_no_worse() -> None:
    assert compare(say(IMAGES, 0.8), say(IMAGES, 0.2)).verdict == "better than main"
    assert compare(say(IMAGES, 0.5), say(IMAGES, 0.5, seed=1)).verdict == "no worse than main"


def test_a_model_that_says_the_same_of_every_image_is_called_the_same() -> None:
    assert compare(say(IMAGES, 0.5), say(IMAGES, 0.5)).verdict == "the same as main"


def test_a_model_that_fails_a_check_is_refused_for_that_reason_whatever_it_gains() -> None:
    floor = Check("sensitivity at least", 0.7, 0.8, False)
    refused = compare(say(IMAGES, 0.8), say(IMAGES, 0.2), Check("roc_auc at least", 0.9, 0.8, True), floor)
    assert (refused.verdict, refused.reason) == ("refused", "sensitivity at least 0.8: it is 0.7")


def test_the_curves_in_the_summary_are_those_of_both_models() -> None:
    base, ours = trace_roc(compare(say(IMAGES, 50), say(IMAGES, 0.0)).images)
    assert ours == [1.0] * 21
    assert np.mean(base) == pytest.approx(0.5, abs=0.15)
    assert (base[0], base[-1]) == (pytest.approx(0, abs=0.1), 1.0)


def test_a_revision_that_does_not_exist_or_does_not_run_is_named(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    monkeypatch.setenv("PATH", clean_environment()["PATH"])
    with pytest.raises(InputError, match="no commit 'nowhere'"):
        reproduce("nowhere")
    set_params(finished, {"split": {"seed": -1}})
    run("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qam", "broken", cwd=finished)
    with pytest.raises(InputError, match="does not come to its end"):
        reproduce("HEAD")


@pytest.mark.parametrize(
    "settings, said", [("a='b", "cannot be taken apart"), ("no.such=1", "did not come to its end")]
)
def test_settings_that_cannot_be_used_are_an_error(
    settings: str, said: str, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    monkeypatch.setenv("PATH", clean_environment()["PATH"])
    with pytest.raises(InputError, match=said):
        run_pipeline("", settings, "")


def test_a_base_that_was_run_before_is_reproduced_without_training_and_leaves_no_branch(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished)
    monkeypatch.setenv("PATH", clean_environment()["PATH"])
    before = [run("git", *command.split(), cwd=finished).stdout for command in ("branch -a", "status --short", "log")]
    commit = reproduce("HEAD")
    assert "Running stage" not in capfd.readouterr().out
    assert before == [run("git", *c.split(), cwd=finished).stdout for c in ("branch -a", "status --short", "log")]
    gates = yaml.safe_load(Path("params.yaml").read_text())["register"]["gates"]
    assert compare_with(commit, "HEAD", Gates(**gates)).verdict == "the same as HEAD"


def test_a_retraining_that_is_stopped_leaves_nothing_half_done_and_the_next_one_goes_on(finished: Path) -> None:
    set_params(finished, {"train": {"epochs": 60}})
    run("git", "add", "-f", "dvc.lock", "params.yaml", "conf", cwd=finished)
    run("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "longer", cwd=finished)
    state = [run("git", *command.split(), cwd=finished).stdout for command in ("branch -a", "status --short", "log")]
    command = ["python", "-m", "pneumonia", "retrain", "--base", "HEAD~1"]
    stopped = subprocess.Popen(
        command, cwd=finished, env=clean_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    wait_for(finished, ".cache/training/train-*/history.json")
    os.killpg(stopped.pid, signal.SIGINT)
    stopped.communicate(timeout=180)
    assert stopped.returncode
    assert state == [run("git", *c.split(), cwd=finished).stdout for c in ("branch -a", "status --short", "log")]
    done = run(*command, cwd=finished)
    assert "Going on after epoch" in done.stdout and "This model is" in done.stdout


def test_a_failure_is_what_the_summary_says(tmp_path: Path) -> None:
    page: dict[str, Any] = {"base": "main", "failure": "Stage train failed.", "absent": "", "comparison": None}
    render("retraining.md", tmp_path / "summary.md", page)
    assert (tmp_path / "summary.md").read_text().endswith("```\nStage train failed.\n```\n")
