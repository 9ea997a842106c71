"""A phase resumes only from its own training, and its outputs depend on nothing that DVC does not know."""

import hashlib
import shutil
from pathlib import Path
from typing import Any, cast

import keras
import pytest
import yaml
from phases import PARAMS
from projects import ROOT
from stores import working_in

from pneumonia.core.files import locked
from pneumonia.core.params import ModelParams
from pneumonia.models.classifier import build_model
from pneumonia.training import state
from pneumonia.training.fit import make_deterministic
from pneumonia.training.state import CODE, find_state, hold_state

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
    monkeypatch.setattr(state, "__file__", str(copy / "training" / "state.py"))
    return copy


def find(model: keras.Model, stage: str = "train", data: str = "data.pkl", precision: str = "float32", **changes: Any):
    params = PARAMS.train.model_copy(update=changes)
    return find_state(Path(f"stages/{stage}.py"), Path(data), model, params, precision)


def test_unfinished_training_belongs_to_one_phase_dataset_section_precision_and_set_of_weights(
    code: Path, model: keras.Model
):
    Path("same.pkl").write_bytes(b"images")
    Path("other.pkl").write_bytes(b"other images")
    own = find(model)
    assert find(model, data="same.pkl") == own
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
    assert len({own, *others}) == 6


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


def train(folder: Path, out: Path) -> bool:
    """Train as a phase does: leave state, write the model; return whether there was state to resume from."""
    with hold_state(folder, out):
        resumed = (folder / "history.json").exists()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "history.json").write_text("[]")
        out.write_bytes(b"model")
    return resumed


def test_a_finished_training_is_not_repeated_until_dvc_has_its_model(tmp_path: Path):
    with working_in(tmp_path):
        out = Path("initial.keras")
        assert [train(Path("training/train-1"), out) for _ in range(3)] == [False, True, True]
        Path("dvc.lock").write_text(f"outs:\n- path: initial.keras\n  md5: {hashlib.md5(b'model').hexdigest()}\n")
        assert [train(Path("training/train-1"), out) for _ in range(2)] == [False, False]
        Path("dvc.lock").write_text("")  # as a kill can leave it
        assert train(Path("training/train-1"), out)


def test_a_training_that_fails_stays_unfinished(tmp_path: Path):
    with working_in(tmp_path):
        with pytest.raises(KeyboardInterrupt), hold_state(Path("train-1"), Path("out")):
            Path("train-1").mkdir()
            raise KeyboardInterrupt
        assert list(Path("train-1").iterdir()) == []


def test_one_finished_training_of_each_phase_is_left_and_all_unfinished_ones(tmp_path: Path):
    (tmp_path / "train-9").mkdir()
    train(tmp_path / "finetune-8", tmp_path / "out")
    with locked(tmp_path / "finetune-8", "reading it"):
        for name in ("train-1", "train-2", "finetune-1", "train-3"):
            train(tmp_path / name, tmp_path / "out")
    assert {path.name for path in tmp_path.glob("*/")} == {"train-3", "finetune-1", "finetune-8", "train-9"}
