"""Every recipe composes to parameters that the pipeline takes, and the committed ones are the default."""

from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from projects import ROOT

from pneumonia.core.params import Params

RECIPES = sorted(path.stem for path in (ROOT / "conf" / "recipe").glob("*.yaml"))


def compose_params(*overrides: str) -> str:
    """Compose parameters as `dvc exp run` does."""
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        config = compose("config", overrides=list(overrides))
    OmegaConf.resolve(config)
    return OmegaConf.to_yaml(config)


def load_recipe(recipe: str, *overrides: str) -> Params:
    return Params.model_validate(yaml.safe_load(compose_params(f"recipe={recipe}", *overrides)))


def read_header(recipe: str) -> list[str]:
    lines = (ROOT / "conf" / "recipe" / f"{recipe}.yaml").read_text().splitlines()
    return [line.removeprefix("# ") for line in lines if line.startswith("# ")]


def test_the_committed_parameters_are_the_composed_default_byte_for_byte() -> None:
    assert (ROOT / "params.yaml").read_text() == compose_params()


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_has_the_name_of_its_file_and_valid_parameters(recipe: str) -> None:
    assert load_recipe(recipe).recipe == recipe


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_opens_with_its_command(recipe: str) -> None:
    package, command, *_ = read_header(recipe)
    assert package == "@package _global_"
    assert command.startswith("dvc exp run")
    assert recipe == "default" or f"-S recipe={recipe}" in command


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_names_only_what_it_changes(recipe: str) -> None:
    default = load_recipe("default").flat()
    tree = yaml.safe_load((ROOT / "conf" / "recipe" / f"{recipe}.yaml").read_text())
    named: dict[str, Any] = {
        f"{section}.{name}": value
        for section, values in tree.items()
        if isinstance(values, dict)
        for name, value in values.items()
    }
    assert {name for name, value in named.items() if default.get(name) == value} == set()


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_named_in_the_docs(recipe: str) -> None:
    assert f"| `{recipe}` |" in (ROOT / "docs" / "recipes.md").read_text()


def test_a_setting_on_the_command_line_wins_over_the_recipe() -> None:
    assert load_recipe("resnet101_cam", "finetune.epochs=2").finetune.epochs == 2


def test_system_a_trains_as_its_table_says() -> None:
    params = load_recipe("inception_v3")
    assert (params.split.strategy, params.split.seed, params.merge.drop_duplicates) == ("stratified", 123, False)
    assert (params.train.learning_rate, params.train.epochs, params.model.dropout) == (5e-4, 15, 0.5)
    assert (params.finetune.learning_rate, params.model.head) == (1e-5, "sigmoid")
    augment = params.augment
    assert (augment.balance, augment.rotation_degrees, augment.shift, augment.brightness) == (
        "augment", 0.3, 0.05, (0.9, 1.1),
    )  # fmt: skip


def test_system_b_finds_its_rates_and_cycles_between_them() -> None:
    params = load_recipe("densenet121_cyclical")
    assert {params.train.learning_rate, params.finetune.learning_rate} == {"auto"}
    assert (params.train.schedule, params.finetune.schedule) == ("triangular", "triangular2")
    assert (params.model.head, params.split.strategy, params.finetune.from_layer) == ("softmax", "original", 0)


def test_system_c_presizes_and_trains_six_and_four_epochs_in_one_cycle() -> None:
    params = load_recipe("resnet34_one_cycle")
    assert (params.augment.presize, params.train.epochs, params.finetune.epochs) == (460, 6, 4)
    assert {params.train.schedule, params.finetune.schedule} == {"one_cycle"}
    assert (params.augment.affine_probability, params.augment.lighting_probability) == (0.75, 0.75)
    assert (params.augment.rotation_degrees, params.augment.zoom, params.augment.warp) == (10, (1, 1.1), 0.2)


def test_system_d_draws_class_activation_maps() -> None:
    params = load_recipe("resnet101_cam")
    assert (params.model.backbone, params.model.head, params.evaluate.heatmap) == ("resnet101", "softmax", "cam")
