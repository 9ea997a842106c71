"""Tiny copies of the project, with their own git, DVC and MLflow stores."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

ROOT = Path(__file__).parent.parent
WARM = ROOT / "tests" / "warm"
REAL_DATA = ROOT.parent / "shared" / "data"
REAL_IMAGES = REAL_DATA / "chest_xray"
# Noise decides what a tiny model reaches.
NO_GATES = {
    "min_roc_auc": 0.0, "min_sensitivity": 0.0, "min_specificity": 0.0, "max_calibration_error": 1.0,
    "margin_roc_auc": 1.0, "margin_sensitivity": 1.0, "margin_specificity": 1.0, "min_common_images": 1,
    "min_common_patients": 1,
}  # fmt: skip
TINY = {
    "data": {"images": 60},
    "model": {"backbone": "tiny", "weights": "none", "image_size": 32},
    "train": {"epochs": 2, "learning_rate": 1e-2},
    "finetune": {"epochs": 2},
    "register": {"gates": NO_GATES},
    "evaluate": {"resamples": 100},
}

# Variables that would lead a test to other stores or settings than its own.
LEADING = ("MLFLOW_", "DVC_", "GIT_", "PNEUMONIA_")

Run = Callable[..., subprocess.CompletedProcess[str]]


def set_params(project: Path, changes: dict[str, Any]) -> None:
    """Change values section by section, in params.yaml and in what `dvc exp run` composes it from."""
    for path in (project / "params.yaml", project / "conf" / "config.yaml"):
        params = yaml.safe_load(path.read_text())
        for section, values in changes.items():
            params[section] = params[section] | values
        path.write_text(yaml.safe_dump(params, sort_keys=False))


def copy_project(target: Path) -> Path:
    """Copy what git would: code, pipeline and parameters, with tiny ones set."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith(("tests/", "docs/", "requirements")) and name != "dvc.lock":
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    set_params(target, TINY)
    for command in ("init -q", "config user.name t", "config user.email t@t", "add -A", "commit -qm tiny"):
        subprocess.run(["git", *command.split()], cwd=target, check=True)
    return target


def clean_environment() -> dict[str, str]:
    """Return the environment without what would lead a test to other stores; `python -m` starts warm."""
    start_warm()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(LEADING)}
    path = f"{WARM}:{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"
    return kept | {"PATH": path, "CUDA_VISIBLE_DEVICES": ""}


@cache
def start_warm() -> None:
    """Start the server of warm processes, once for all workers, and tell the environment; it ends with the session."""
    owner = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    address = Path(tempfile.gettempdir()) / f"warm-{owner}"
    with FileLock(f"{address}.lock"):
        if not address.exists():
            subprocess.run(
                [sys.executable, WARM / "server.py", address, str(owner)], stdout=subprocess.DEVNULL, check=True
            )
    os.environ |= {"WARM_PYTHON": sys.executable, "WARM_SOCKET": str(address)}


def run(*command: str, cwd: Path, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a project as a user would."""
    done = subprocess.run(command, cwd=cwd, env=clean_environment() | environment, capture_output=True, text=True)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    return done


def link_environment(project: Path) -> None:
    """Give a project a .venv in which everything is installed; its `python -m` starts warm."""
    commands = project / ".venv" / "bin"
    commands.mkdir(parents=True)
    for command in (ROOT / ".venv" / "bin").iterdir():
        (commands / command.name).symlink_to(WARM / "python" if command.name == "python" else command)
    for lock in ROOT.glob("requirements*.txt"):
        shutil.copy(lock, commands.parent)
