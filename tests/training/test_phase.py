"""A phase resumes only from its own training, and its outputs depend on nothing that DVC does not know."""

import shutil
from pathlib import Path
from typing import Any, cast

import keras
import pandas as pd
import pytest
import yaml
from phases import DATASET, FOUND, PARAMS, RANGE_TEST, write_range_test
from projects import ROOT

from pneumonia.core.dataset import Dataset
from pneumonia.core.params import ModelParams
from pneumonia.models.classifier import build_model
from pneumonia.training import phase
from pneumonia.training.fit import make_deterministic
from pneumonia.training.listener import replay_files
from pneumonia.training.phase import CODE, find_state

PACKAGE = ROOT / "pneumonia"
STAGES = ("train", "finetune")
OTHERS = sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists() and path.name not in CODE)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    make_deterministic(1)
    return build_model(ModelParams(backbone="tiny", weights="none", head="sigmoid", image_size=32, dropout=0.0))


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the package from which `find_state` reads its code, beside the stages and some data."""
    copy = Path(shutil.copytree(PACKAGE, tmp_path / "pneumonia", ignore=shutil.ignore_patterns("__pycache__")))
    shutil.copytree(ROOT / "stages", tmp_path / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "data.pkl").write_bytes(b"images")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(phase, "__file__", str(copy / "training" / "phase.py"))
    return copy


def find(model: keras.Model, stage: str = "train", data: str = "data.pkl", precision: str = "float32", **changes: Any):
    params = PARAMS.train.model_copy(update=changes)
    return find_state(Path(f"stages/{stage}.py"), Path(data), model, params, precision)


def test_unfinished_training_belongs_to_one_phase_dataset_section_precision_and_set_of_weights(
    code: Path, model: keras.Model
):
    Path("same.pkl").write_bytes(b"images")
    Path("other.pkl").write_bytes(b"other images")
    state = find(model)
    assert find(model, data="same.pkl") == state
    others = [
        find(model, "finetune"),
        find(model, data="other.pkl"),
        find(model, learning_rate=0.02),
        find(model, precision="bfloat16"),
    ]
    bias = cast(Any, model.get_layer("logit")).bias
    bias.assign_add([0.1])
    others.append(find(model))
    bias.assign_sub([0.1])
    assert len({state, *others}) == 6


@pytest.mark.parametrize("stage", STAGES)
def test_a_training_depends_on_the_same_code_as_its_stage_in_dvc_yaml(stage: str):
    deps = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][stage]["deps"]
    code = {dep for dep in deps if dep.startswith(("pneumonia/", "stages/"))}
    assert code == {f"pneumonia/{folder}" for folder in CODE} | {f"stages/{stage}.py"}


@pytest.mark.parametrize("folder", CODE)
def test_any_change_of_code_that_a_training_depends_on_starts_it_anew(code: Path, model: keras.Model, folder: str):
    (code / folder / "part").mkdir()
    states = [find(model)]
    for change in (
        lambda: (code / folder / "__init__.py").write_text("# another"),
        lambda: (code / folder / "part" / "module.py").write_text("number = 1"),
        lambda: (code / folder / "part" / "module.py").rename(code / folder / "part" / "renamed.py"),
        lambda: (code / folder / "part" / "renamed.py").rename(code / folder / "renamed.py"),
        lambda: (code / folder / "renamed.py").unlink(),
    ):
        change()
        states.append(find(model))
    assert len(set(states)) == 5
    assert states[-1] == states[1]  # the same code again


@pytest.mark.parametrize("stage", STAGES)
def test_an_edit_of_a_stage_starts_its_own_training_anew_and_no_other(code: Path, model: keras.Model, stage: str):
    before = {name: find(model, name) for name in STAGES}
    with Path(f"stages/{stage}.py").open("a") as file:
        file.write("\n# edited\n")
    assert [name for name in STAGES if find(model, name) != before[name]] == [stage]


@pytest.mark.parametrize("folder", OTHERS)
def test_an_edit_elsewhere_leaves_an_unfinished_training_as_it_is(code: Path, model: keras.Model, folder: str):
    before = find(model)
    for path in (code / folder).iterdir():
        if path.is_file():
            path.write_bytes(path.read_bytes() + b"\n")
    (code / folder / "new.py").touch()
    assert find(model) == before


class Log:
    """A listener that writes down what it is told."""

    def __init__(self) -> None:
        self.range_tests: list[float] = []
        self.epochs: list[tuple[int, dict[str, float], dict[int, float]]] = []
        self.best: list[dict[str, float]] = []

    def log_range_test(self, table: pd.DataFrame, learning_rate: float, figure: Any) -> None:
        self.range_tests.append(learning_rate)

    def log_epoch(self, epoch: int, logs: dict[str, float], rates: pd.DataFrame) -> None:
        self.epochs.append((epoch, logs, cast(Any, rates["learning_rate"].to_dict())))

    def log_best(self, best: dict[str, float]) -> None:
        self.best.append(best)


def replay(dataset: Dataset = DATASET, batch_size: int = 4) -> Log:
    log, params = Log(), PARAMS.train.model_copy(update={"batch_size": batch_size})
    replay_files(Path("history.csv"), Path("range.csv"), params, "no clinical meaning", log, dataset)
    return log


def test_a_listener_hears_from_files_what_the_phase_told_but_one_learning_rate_per_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path("history.csv").write_text("epoch,loss,val_loss,learning_rate\n1,0.7,0.8,0.01\n2,0.5,0.6,0.005\n")
    write_range_test(Path("range.csv"), RANGE_TEST)
    log = replay()
    assert [epoch for epoch, _, _ in log.epochs] == [0, 1]
    assert [rates for _, _, rates in log.epochs] == [{2: 0.01}, {4: 0.005}]  # six images are two batches
    assert log.best == [{"epoch": 2, "loss": 0.5, "val_loss": 0.6, "learning_rate": 0.005}]
    assert log.range_tests == [FOUND]


def test_without_a_range_test_the_listener_hears_of_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("history.csv").write_text("epoch,loss,val_loss,learning_rate\n1,0.7,0.8,0.01\n")
    write_range_test(Path("range.csv"))
    assert replay().range_tests == []
