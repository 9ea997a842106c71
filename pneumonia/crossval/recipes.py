"""Compose the parameters of recipes as `dvc exp run` does, for the images that this workspace has split."""

from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pneumonia.core.errors import InputError
from pneumonia.core.params import Params
from pneumonia.core.params_file import check_params, load_params, refuse_interpolation
from pneumonia.experiments.compare import RECIPES, list_variants

# Sections of params.yaml that made data/splits.csv: for all recipes they are those of the workspace.
WORKSPACE = ("data", "validate", "merge", "split")


def compose_recipes(recipes: list[str], settings: list[str]) -> dict[str, Params]:
    """Return the parameters of each recipe by a name that tells it from the others.

    Args:
        recipes: names of files in conf/recipe.
        settings: `name=value` as for `dvc exp run -S`; `name=value,value` composes each recipe once per value.

    Raises:
        InputError: a recipe does not exist, or a setting cannot be used or belongs to a section of WORKSPACE.
    """
    workspace = load_params().model_dump(mode="json", by_alias=True, include={*WORKSPACE, "validate_"})
    for path in sorted(RECIPES.parent.rglob("*.yaml")):
        refuse_interpolation(str(path), path.read_text())
    refuse_interpolation("A setting", " ".join(settings))
    _refuse_workspace(settings)
    found: dict[str, Params] = {}
    for overrides, varied in list_variants(recipes, settings):
        name = " ".join([overrides[0].removeprefix("recipe="), *varied])
        found[name] = check_params(_compose(overrides) | workspace, f"recipe {' '.join(overrides)}")
    return found


def _refuse_workspace(settings: list[str]) -> None:
    for setting in settings:
        section = setting.lstrip("+~").partition("=")[0].partition(".")[0]
        if section in WORKSPACE:
            raise InputError(
                f"The setting {setting!r} would change how the images were read and split.",
                expected=f"a setting outside of {', '.join(WORKSPACE)}, which are as in params.yaml for all recipes",
                remedy="change params.yaml, run dvc repro split, then cross-validate",
            )


def _compose(overrides: list[str]) -> dict[str, Any]:
    try:
        with initialize_config_dir(str(Path(RECIPES.parent).resolve()), version_base=None):
            content: Any = OmegaConf.to_container(compose("config", overrides), resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(
            f"{' '.join(overrides)} cannot be composed: {str(error).splitlines()[0]}.",
            expected="name=value of a parameter in conf/config.yaml",
            remedy="correct it; docs/parameters.md lists all parameters",
        ) from None
    return content
