"""The stage registers what the pipeline made and evaluated, and from a temporary work tree nothing unless asked to."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest
import yaml
from swaps import DIGESTS, METRICS, MODEL, NOVELTY, POINT, PREDICTIONS, digest_anew, flatter, lock_anew, swap_model

from pneumonia.core.stage import run_stage
from pneumonia.registry.audit import read_audit
from pneumonia.registry.versions import describe_versions, list_versions
from pneumonia.tracking.connection import connect
from stages.register import register


@pytest.fixture
def experiment(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work where DVC runs the experiment `trial` of a finished project, up to the stage register."""
    tree = finished / ".dvc/tmp/exps/standalone/tmptrial"
    tree.mkdir(parents=True)
    for name in ("params.yaml", "dvc.yaml", "dvc.lock", "data", "models", "reports"):
        (tree / name).symlink_to(finished / name)
    monkeypatch.chdir(tree)
    monkeypatch.setenv("DVC_EXP_NAME", "trial")
    yield tree
    mlflow.set_tracking_uri(None)  # pyright: ignore[reportArgumentType]


@pytest.fixture
def stage(experiment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Return a function that runs the stage as dvc.yaml does, and returns the last line it prints."""

    def call() -> str:
        command = yaml.safe_load(Path("dvc.yaml").read_text())["stages"]["register"]["cmd"]
        monkeypatch.setattr(sys, "argv", command.split()[2:])
        run_stage(register)
        return capsys.readouterr().out.splitlines()[-1]

    return call


def test_an_experiment_is_recorded_and_registers_nothing(stage: Callable[[], str]) -> None:
    before = describe_versions(), len(list_versions()), read_audit()
    assert "no version registered, this is a temporary work tree; PNEUMONIA_REGISTER=true registers one." in stage()
    assert (describe_versions(), len(list_versions()), read_audit()) == before
    [run] = mlflow.search_runs([connect()], "tags.dvc_exp_name = 'trial'", output_format="list")
    assert run.data.tags["phase"] == "finetune"  # pyright: ignore[reportAttributeAccessIssue]
    assert "test_roc_auc" in run.data.metrics  # pyright: ignore[reportAttributeAccessIssue]


def test_an_experiment_registers_a_version_if_asked_to(
    stage: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    POINT.write_text(POINT.read_text() + "\n")  # another SHA-256, the same model
    digest_anew()
    lock_anew()
    monkeypatch.setenv("PNEUMONIA_REGISTER", "true")
    assert "version 2 stays challenger, champion is version 1" in stage()  # a tie
    assert len(list_versions()) == 2


def test_nothing_is_recorded_that_is_not_what_the_pipeline_made_and_evaluated(stage: Callable[[], str]) -> None:
    """One project for all cases: each file is put back, and no case gets as far as the store."""

    def refuse(changed: Path, content: bytes | None, match: str) -> None:
        before = changed.read_bytes()
        changed.unlink() if content is None else changed.write_bytes(content)
        with pytest.raises(SystemExit, match=rf"(?s){match}.*Expected.*Remedy"):
            stage()
        changed.write_bytes(before)

    evaluated = (Path("data/dataset.pkl"), Path("models/initial.keras"), MODEL, NOVELTY, POINT, METRICS, PREDICTIONS)
    for path in evaluated:
        refuse(path, path.read_bytes() + b"\n", f"{path} is not the file that was evaluated")
    for content in (None, b"", b"[]", b"{}"):
        refuse(DIGESTS, content, r"was evaluated|were evaluated")
    for path in (Path("reports/model_card.md"), Path("reports/train_range.csv")):
        refuse(path, b"# Another\n", f"{path} is not what the pipeline made")
    for content in (None, b"", b"stages:", b"stages: {finetune: {outs: [{}]}}"):
        refuse(Path("dvc.lock"), content, "dvc.lock, which says what the pipeline made, cannot be read")
    refuse(Path("dvc.lock"), b"stages: {}", "is not what the pipeline made")
    assert len(list_versions()) == 1


@pytest.mark.parametrize("swap, named", [(swap_model, MODEL), (flatter, METRICS)])
def test_files_that_were_replaced_together_are_refused(
    swap: Callable[[], None], named: Path, stage: Callable[[], str]
) -> None:
    swap()
    with pytest.raises(SystemExit, match=rf"(?s){named} is not what the pipeline made.*Expected.*Remedy"):
        stage()
    assert len(list_versions()) == 1


def test_a_model_that_scores_otherwise_than_stored_is_refused_even_if_dvc_knows_it(
    stage: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    swap_model()
    lock_anew()
    monkeypatch.setenv("PNEUMONIA_REGISTER", "true")
    with pytest.raises(SystemExit, match=rf"(?s){MODEL} gives \S+ the probability .*Expected.*Remedy"):
        stage()
    assert len(list_versions()) == 1
