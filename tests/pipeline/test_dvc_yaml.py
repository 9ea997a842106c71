"""dvc.yaml tells the truth about what each stage reads."""

import ast
from pathlib import Path
from typing import Any

import pytest
import yaml
from projects import ROOT

from pneumonia.models.backbones import BACKBONES

STAGES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def imported_modules(module: Path, seen: frozenset[Path] = frozenset()) -> frozenset[Path]:
    """Return the project files that `module` imports, directly or through others, itself included."""
    seen |= {module}
    names: list[str] = []
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    if module.name == "model.py":  # builds what the table of backbones names
        names += [backbone.builder.partition(":")[0] for backbone in BACKBONES.values()]
    for name in names:
        path = ROOT / (name.replace(".", "/") + ".py")
        if name.startswith("pneumonia.") and path.exists() and path not in seen:
            seen |= imported_modules(path, seen)
    return seen


def expected_modules(stage: str) -> set[str]:
    found = imported_modules(ROOT / "stages" / f"{stage}.py") | {ROOT / "pneumonia" / "__init__.py"}
    return {path.relative_to(ROOT).as_posix() for path in found}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_every_module_it_imports_and_on_no_other(stage: str) -> None:
    declared = {dep for dep in STAGES[stage]["deps"] if dep.endswith(".py")}
    assert declared == expected_modules(stage)
