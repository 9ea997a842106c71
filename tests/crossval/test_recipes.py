"""Recipes compose as for `dvc exp run`, but images stay split as the workspace split them."""

from pathlib import Path

import pytest
from projects import ROOT

from pneumonia.core.errors import InputError
from pneumonia.core.params_file import load_params
from pneumonia.crossval.recipes import compose_recipes


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a project with parameters of its own."""
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)


def test_a_recipe_changes_the_model_and_not_the_split(tmp_path: Path) -> None:
    text = (
        Path("params.yaml").read_text().replace("seed: 7", "seed: 8").replace("strategy: patient", "strategy: original")
    )
    Path("params.yaml").write_text(text)
    (params,) = compose_recipes(["inception_v3"], ["train.epochs=3"]).values()
    workspace = load_params()
    assert (params.recipe, params.model.backbone, params.train.epochs) == ("inception_v3", "inception_v3", 3)
    for section in ("data", "validate_", "merge", "split"):
        assert getattr(params, section) == getattr(workspace, section)


def test_several_values_are_several_recipes_with_names_that_tell_them_apart() -> None:
    found = compose_recipes(["default", "patient_views"], ["train.epochs=2,3", "train.seed=5"])
    assert list(found) == [
        "default train.epochs=2", "default train.epochs=3",
        "patient_views train.epochs=2", "patient_views train.epochs=3",
    ]  # fmt: skip
    assert [params.augment.views for params in found.values()] == [1, 1, 4, 4]


@pytest.mark.parametrize(
    "recipe, setting, what",
    [
        ("nothing", "train.epochs=1", "There is no recipe 'nothing'"),
        ("default", "train.epocs=1", "cannot be composed"),
        ("default", "train.epochs=0", "train.epochs is 0"),
        ("default", "split.seed=1", "would change how the images were read and split"),
        ("default", "+data.images=96", "would change how the images were read and split"),
        ("default", "train.epochs=[", "cannot be parsed"),
        ("default", "model.weights=${oc.env:HOME}", "holds ${oc.env:HOME}"),
    ],
)
def test_what_cannot_be_composed_is_refused_in_three_parts(recipe: str, setting: str, what: str) -> None:
    with pytest.raises(InputError) as error:
        compose_recipes([recipe], [setting])
    first, expected, remedy = str(error.value).split("\n  ")
    assert what in first
    assert expected.startswith("Expected: ") and remedy.startswith("Remedy: ")
