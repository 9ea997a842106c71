"""dvc.yaml tells the truth about the code that each stage runs."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from imports import PACKAGE, follow_imports
from projects import ROOT

PIPELINE = (ROOT / "dvc.yaml").read_text()
STAGES: dict[str, dict[str, Any]] = yaml.safe_load(PIPELINE)["stages"]
CODED = [stage for stage in STAGES if stage != "register"]
# What no output depends on: tracking writes to MLflow only, and the package itself holds one import of core.
EXEMPT = (PACKAGE / "tracking", PACKAGE / "__init__.py")


def list_code(stage: str) -> list[Path]:
    return [ROOT / dep for dep in STAGES[stage]["deps"] if dep.startswith(("pneumonia", "stages"))]


def lies_in(module: Path, places: list[Path] | tuple[Path, ...]) -> bool:
    return any(module == place or place in module.parents for place in places)


@pytest.mark.parametrize("stage", CODED)
def test_every_import_of_a_stage_is_covered(stage: str) -> None:
    imported = follow_imports(ROOT / "stages" / f"{stage}.py")
    missing = [path for path in imported if not lies_in(path, list_code(stage)) and not lies_in(path, EXEMPT)]
    assert [path.relative_to(ROOT).as_posix() for path in missing] == []


@pytest.mark.parametrize("stage", CODED)
def test_every_dependency_on_code_is_needed(stage: str) -> None:
    imported = follow_imports(ROOT / "stages" / f"{stage}.py")
    assert [place for place in list_code(stage) if not any(lies_in(path, [place]) for path in imported)] == []


def test_every_template_lies_in_a_folder_that_its_stage_depends_on() -> None:
    templates = [path for path in PACKAGE.rglob("templates/*") if path.is_file()]
    used = {folder for stage in CODED for folder in list_code(stage)}
    rendered = {path.parents[1].name for path in templates if lies_in(path, tuple(used))}
    assert rendered == {path.parents[1].name for path in templates} - {"audit", "experiments", "crossval", "serving"}


def test_register_lists_no_code_as_it_always_runs() -> None:
    assert STAGES["register"]["always_changed"]
    assert list_code("register") == []


def test_bytecode_is_no_dependency() -> None:
    assert "__pycache__" in (ROOT / ".dvcignore").read_text().splitlines()


def test_the_pipeline_is_read_at_a_glance() -> None:
    assert PIPELINE.count("\n") <= 200


@pytest.mark.parametrize("stage", STAGES)
def test_every_path_of_a_command_is_a_named_option(stage: str) -> None:
    options = STAGES[stage]["cmd"].split()[3:]
    assert [word.startswith("--") for word in options] == [True, False] * (len(options) // 2)


@pytest.mark.parametrize("stage", CODED)
def test_every_path_of_a_command_is_a_dependency_or_an_output(stage: str) -> None:
    entry = STAGES[stage]
    declared = {path for kind in ("deps", "outs", "metrics") for path in entry.get(kind, [])}
    assert set(entry["cmd"].split()[4::2]) <= declared
