"""The house stays in order: imports go one way, files are short, folders small."""

from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from imports import MODULES, PACKAGE, draw_graph, find_folder, list_imports
from projects import ROOT

# Folders that each folder may import from; docs/how-it-works.md draws the same graph.
ALLOWED = {
    "core": set[str](),
    "sources": {"core"},
    "images": {"core"},
    "records": {"core", "images"},
    "augment": {"core", "images"},
    "models": {"core"},
    "training": {"core", "models"},
    "tracking": {"core"},
    "inference": {"core", "images", "models"},
    "evaluation": {"core", "models", "inference"},
    "reporting": {"core", "inference"},
    "registry": {"core", "images", "inference", "evaluation", "tracking"},
    "serving": {"core", "sources", "images", "inference", "registry"},
    "experiments": {"core", "reporting", "registry", "tracking"},
    "crossval": {
        *("core", "records", "augment", "models", "training", "inference", "evaluation", "reporting", "tracking"),
        "experiments",
    },
    "audit": {"core", "augment", "models", "inference", "reporting"},
    "cli": {"core", "audit", "inference", "experiments", "crossval", "registry", "serving", "tracking"},
}
LONGEST, FULLEST = 220, 12  # lines in a file, files in a folder


def test_every_folder_imports_only_from_folders_below_it() -> None:
    assert {folder: found - ALLOWED[folder] for folder, found in draw_graph().items() if found - ALLOWED[folder]} == {}


def test_every_arrow_that_is_allowed_is_used() -> None:
    graph = draw_graph()
    assert {folder: allowed - graph[folder] for folder, allowed in ALLOWED.items() if allowed - graph[folder]} == {}


def test_folders_form_no_circle() -> None:
    try:
        TopologicalSorter(ALLOWED).prepare()
    except CycleError as error:
        pytest.fail(str(error))


def test_modules_form_no_circle() -> None:
    try:
        TopologicalSorter({module: list_imports(module) - {module} for module in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(str([Path(path).relative_to(ROOT).as_posix() for path in error.args[1]]))


def test_nothing_imports_the_stages_tests_or_benchmarks() -> None:
    named = [module for module in MODULES if any(f"from {name}" in module.read_text() for name in ("stages", "tests"))]
    assert named == []


def test_the_package_itself_holds_nothing_but_its_folders() -> None:
    assert sorted(path.name for path in PACKAGE.glob("*.py")) == ["__init__.py", "__main__.py"]
    assert {find_folder(path) for path in list_imports(PACKAGE / "__init__.py")} == {"core"}


def test_no_file_is_long() -> None:
    files = [*MODULES, *(ROOT / "stages").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    lines = {path.relative_to(ROOT).as_posix(): path.read_text().count("\n") for path in files}
    assert {path: count for path, count in lines.items() if count > LONGEST} == {}


def test_no_stage_is_long() -> None:
    lines = {path.name: path.read_text().count("\n") for path in (ROOT / "stages").glob("*.py")}
    assert {name: count for name, count in lines.items() if count > 40} == {}


def test_no_folder_is_full() -> None:
    files = Counter(find_folder(module) for module in MODULES if module.name != "__init__.py")
    assert {folder: count for folder, count in files.items() if count > FULLEST} == {}


def test_every_module_has_its_tests_in_the_same_folder() -> None:
    tested = {path.parent.name for path in (ROOT / "tests").rglob("test_*.py")}
    assert {find_folder(module) for module in MODULES} - {""} <= tested
