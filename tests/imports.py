"""Read from the code which modules of the project import which others."""

import ast
import re
from functools import cache
from pathlib import Path

from projects import ROOT

PACKAGE = ROOT / "pneumonia"
MODULES = sorted(PACKAGE.rglob("*.py"))


@cache
def list_imports(module: Path) -> frozenset[Path]:
    """Return the project's files that a module imports, wherever in it; with `build_backbone` all that it may build."""
    names: list[str] = []
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            if any(alias.name == "build_backbone" for alias in node.names):
                names += re.findall(r'"(pneumonia\.[\w.]+):\w+"', (PACKAGE / "models/backbones.py").read_text())
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    paths = (ROOT / f"{name.replace('.', '/')}.py" for name in names if name.split(".")[0] == "pneumonia")
    return frozenset(path for path in paths if path.exists())


def follow_imports(module: Path) -> set[Path]:
    """Return the project's files that a module imports, directly or through others, itself included."""
    found, waiting = set[Path](), [module]
    while waiting:
        if (path := waiting.pop()) not in found:
            found.add(path)
            waiting += list_imports(path)
    return found


def find_folder(module: Path) -> str:
    """Return the folder of the package that holds a module; empty for what lies in none."""
    parts = module.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def draw_graph() -> dict[str, set[str]]:
    """Return the folders that each folder imports from."""
    graph: dict[str, set[str]] = {find_folder(module): set() for module in MODULES if find_folder(module)}
    for module in MODULES:
        if folder := find_folder(module):
            graph[folder] |= {find_folder(path) for path in list_imports(module)} - {folder, ""}
    return graph
