"""Read and check params.yaml."""

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pneumonia.core.errors import InputError
from pneumonia.core.params import Params


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and check params.yaml.

    Raises:
        InputError: the file is missing, is no YAML, or holds an unknown, missing or out-of-range value.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise InputError(
            f"{path} does not exist.", expected="a parameter file", remedy="git restore params.yaml"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} is not YAML: {error}", expected="one mapping per stage", remedy=_find_remedy(path)
        ) from None
    refuse_interpolation(path.name, str(content))
    return check_params(content, path)


def check_params(content: Any, where: str | Path) -> Params:
    """Return the content of params.yaml as parameters.

    Args:
        content: as YAML holds it.
        where: it comes from, for people.

    Raises:
        InputError: it holds an unknown, missing or out-of-range value.
    """
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        problems: dict[str, tuple[Any, list[str]]] = {}
        for found in error.errors():
            name = ".".join(map(str, _strip_union(content, found["loc"]))) or "(all)"
            problems.setdefault(name, (found["input"], []))[1].append(found["msg"])
        what = "; ".join(f"{name} is {value!r}" for name, (value, _) in problems.items())
        expected = "; ".join(f"{name}: {' or '.join(messages)}" for name, (_, messages) in problems.items())
        raise InputError(
            f"{where} has {len(problems)} unusable value(s): {what}.", expected=expected, remedy=_find_remedy(where)
        ) from None


def _find_remedy(where: str | Path) -> str:
    return f"correct {where}; conf/config.yaml comments every key, docs/parameters.md lists the ranges"


def refuse_interpolation(where: str, text: str) -> None:
    """Refuse `${...}`: Hydra replaces it, with secrets of the environment too, and MLflow shows every parameter.

    Raises:
        InputError: the text holds one.
    """
    if found := re.search(r"\$\{[^}]*\}?", text):
        raise InputError(
            f"{where} holds {found[0]}.",
            expected="plain values, as MLflow shows all of them",
            remedy="write the value itself, and keep secrets out of parameters",
        )


def _strip_union(content: Any, location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Return where a value stands, without the name of the type in a union that pydantic adds."""
    for depth, key in enumerate(location):
        if not isinstance(content, dict | list):
            return location[:depth]
        children: dict[Any, Any] = content if isinstance(content, dict) else dict(enumerate(content))
        content = children.get(key)
    return location
