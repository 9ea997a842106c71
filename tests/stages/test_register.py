"""An experiment in a temporary work tree is recorded, and registers nothing unless it is asked to."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest
import yaml

from pneumonia.core.files import write_digests
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
    for name in ("params.yaml", "dvc.yaml", "data", "models", "reports"):
        (tree / name).symlink_to(finished / name)
    monkeypatch.chdir(tree)
    monkeypatch.setenv("DVC_EXP_NAME", "trial")
    yield tree
    mlflow.set_tracking_uri(None)  # pyright: ignore[reportArgumentType]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Return a function that runs the stage as dvc.yaml does, and returns the last line it prints."""

    def call() -> str:
        command = yaml.safe_load(Path("dvc.yaml").read_text())["stages"]["register"]["cmd"]
        monkeypatch.setattr(sys, "argv", command.split()[2:])
        run_stage(register)
        return capsys.readouterr().out.splitlines()[-1]

    return call


@pytest.mark.usefixtures("experiment")
def test_an_experiment_is_recorded_and_registers_nothing(stage: Callable[[], str]) -> None:
    before = describe_versions(), len(list_versions()), read_audit()
    assert "no version registered, this is a temporary work tree; PNEUMONIA_REGISTER=true registers one." in stage()
    assert (describe_versions(), len(list_versions()), read_audit()) == before
    [run] = mlflow.search_runs([connect()], "tags.dvc_exp_name = 'trial'", output_format="list")
    assert run.data.tags["phase"] == "finetune"  # pyright: ignore[reportAttributeAccessIssue]
    assert "test_roc_auc" in run.data.metrics  # pyright: ignore[reportAttributeAccessIssue]


def test_an_experiment_registers_a_version_if_asked_to(
    experiment: Path, stage: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    point = (experiment / "models/operating_point.json").read_text()
    (experiment / "point.json").write_text(point + "\n")  # another SHA-256, the same model
    content = (experiment / "dvc.yaml").read_text().replace("--point models/operating_point.json", "--point point.json")
    (experiment / "dvc.yaml").unlink()
    (experiment / "dvc.yaml").write_text(content)
    names = ("data/dataset.pkl", "data/splits.csv", "models/initial.keras", "models/finetuned.keras")
    files = [*names, *(f"reports/{phase}_history.csv" for phase in ("train", "finetune")), "point.json",
             "models/novelty.npz", "reports/metrics.json", "reports/evaluation/predictions.csv"]  # fmt: skip
    write_digests(map(Path, files), Path("reports/evaluation/digests.json"))
    monkeypatch.setenv("PNEUMONIA_REGISTER", "true")
    assert "version 2 stays challenger, champion is version 1" in stage()  # a tie
    assert len(list_versions()) == 2


EVALUATED = ("data/dataset.pkl", "models/initial.keras", "models/finetuned.keras", "models/novelty.npz",
             "models/operating_point.json", "reports/metrics.json", "reports/evaluation/predictions.csv")  # fmt: skip


@pytest.mark.usefixtures("experiment")
@pytest.mark.parametrize("name", EVALUATED)
def test_nothing_is_recorded_once_a_file_is_not_the_one_that_was_evaluated(name: str, stage: Callable[[], str]) -> None:
    path = Path(name)
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(SystemExit, match=rf"{name} is not the file that was evaluated(.|\n)*Expected(.|\n)*Remedy"):
        stage()
    assert len(list_versions()) == 1


@pytest.mark.usefixtures("experiment")
@pytest.mark.parametrize("content", [None, "", "[]", "{}"])
def test_nothing_is_recorded_without_a_list_of_what_was_evaluated(
    content: str | None, stage: Callable[[], str]
) -> None:
    path = Path("reports/evaluation/digests.json")
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(SystemExit, match=r"was evaluated|were evaluated"):
        stage()
