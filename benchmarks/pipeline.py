"""Run the stages of a scratch copy of this project as processes, and measure their time and memory."""

import csv
import json
import os
import platform
import random
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import yaml

from pneumonia.core.errors import InputError
from pneumonia.core.names import CLASSES
from pneumonia.core.paths import list_files

ROOT = Path(__file__).parent.parent
PHASES = ("train", "finetune")
QUIET = {"DO_NOT_TRACK": "1", "DVC_NO_ANALYTICS": "1", "GX_ANALYTICS_ENABLED": "false",
         "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONUNBUFFERED": "1"}  # fmt: skip


@dataclass(frozen=True)
class Ran:
    """A command that succeeded.

    Attributes:
        seconds: wall time, start included.
        memory: peak resident memory in GB, of the command or the largest of its children.
        lines: its output, each line with the second at which it appeared.
    """

    seconds: float
    memory: float
    lines: list[tuple[float, str]]

    @property
    def stages(self) -> dict[str, float]:
        """Seconds from the start of each DVC stage to the start of the next, hashing and linking included."""
        starts = [(at, line.split("'")[1]) for at, line in self.lines if line.startswith("Running stage '")]
        ends = [at for at, _ in starts[1:]] + [self.seconds]
        return {name: end - at for (at, name), end in zip(starts, ends, strict=True)}


@dataclass(frozen=True)
class Phase:
    """Time in seconds and memory in GB of a training phase, and the validation metrics of its best epoch."""

    seconds: float
    memory: float
    val_auc: float
    val_loss: float


def run(command: str, project: Path) -> Ran:
    """Run a command in a project, with an environment that leads to no other store.

    Raises:
        RuntimeError: it failed; the message holds its output.
    """
    print(f"{project.name}: {command}", file=sys.stderr, flush=True)
    start = time.perf_counter()
    with subprocess.Popen(
        shlex.split(command), cwd=project, env=clean_environment(), text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        assert process.stdout
        lines = [(time.perf_counter() - start, line.rstrip()) for line in process.stdout]
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        output = "\n".join(line for _, line in lines)
        raise RuntimeError(f"`{command}` failed with exit status {process.returncode}:\n{output}")
    kilobytes = usage.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return Ran(time.perf_counter() - start, kilobytes * 1024 / 1e9, lines)


def clean_environment() -> dict[str, str]:
    """Return the environment without variables that lead to other stores or models, this Python first on the PATH."""
    others = ("MLFLOW_", "DVC_", "GIT_", "PNEUMONIA_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    return kept | QUIET | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def copy_project(target: Path, *changes: dict[str, Any]) -> Path:
    """Copy code, pipeline and parameters into a new repository, and change parameters; later changes win."""
    command = ("git", "ls-files", "--cached", "--others", "--exclude-standard")
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        if (ROOT / name).is_file() and not name.startswith(("tests/", "docs/")) and name != "dvc.lock":
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    for sections in changes:
        set_params(target, sections)
    subprocess.run(("git", "init", "-q"), cwd=target, check=True)
    commit(target)
    return target


def commit(project: Path) -> None:
    """Commit everything that git tracks or would add, as `dvc exp run` expects."""
    for command in ("add -A", "-c user.name=benchmark -c user.email=benchmark@localhost commit -qm benchmark"):
        subprocess.run(("git", *command.split()), cwd=project, check=True)


def set_params(project: Path, changes: dict[str, Any]) -> None:
    """Change values section by section, in params.yaml and in the Hydra configuration that `dvc exp run` composes."""
    for path in (project / "params.yaml", project / "conf" / "config.yaml"):
        params = yaml.safe_load(path.read_text())
        path.write_text(yaml.safe_dump(params | {name: params[name] | values for name, values in changes.items()}))


def sample_images(images: Path, number: int, out: Path) -> None:
    """Link a random sample into <out>/train/<label>/: the same one in each call, stratified by class.

    Raises:
        InputError: there are not enough images.
    """
    files = list_files(images)
    if len(files) < number:
        raise InputError(
            f"A sample of {number:,} images cannot be drawn from {len(files):,}.",
            expected=f"a folder with at least {number:,} images",
            remedy="choose a larger folder as --data, or --parts without phases and scaling",
        )
    for label in CLASSES:
        found = [file for file in files if file.relative_to(images).parts[1] == label]
        for image in random.Random(0).sample(found, round(number * len(found) / len(files))):
            place = out / "train" / Path(*image.relative_to(images).parts[1:])
            place.parent.mkdir(parents=True, exist_ok=True)
            link(image, place)


def link(image: Path, target: Path) -> None:
    """Hard-link a file, or copy it if the file system cannot."""
    try:
        os.link(image, target)
    except OSError:
        shutil.copyfile(image, target)


def run_pipeline(project: Path) -> dict[str, Phase]:
    """Run the commands of both training stages in dvc.yaml, each as a whole process, with empty caches."""
    shutil.rmtree(project / ".cache", ignore_errors=True)
    stages = yaml.safe_load((project / "dvc.yaml").read_text())["stages"]
    return {phase: _time_stage(project, phase, stages[phase]["cmd"]) for phase in PHASES}


def _time_stage(project: Path, phase: str, command: str) -> Phase:
    for folder in ("models", "reports"):
        (project / folder).mkdir(exist_ok=True)
    ran = run(command, project)
    best = min(read_history(project / "reports" / f"{phase}_history.csv"), key=lambda epoch: epoch["val_loss"])
    return Phase(ran.seconds, ran.memory, best["val_auc"], best["val_loss"])


def read_history(path: Path) -> Iterator[dict[str, float]]:
    """Yield the metrics of each epoch."""
    with path.open() as file:
        yield from ({name: float(value) for name, value in row.items()} for row in csv.DictReader(file))


def run_plain(project: Path) -> dict[str, Phase]:
    """Train on the same images the plain way; seconds cover building and fitting only."""
    ran = run("python -m benchmarks.plain data/dataset.pkl plain.json", project)
    measured = json.loads((project / "plain.json").read_text())
    return {phase: Phase(memory=ran.memory, **measured[phase]) for phase in PHASES}


def run_floor(project: Path) -> list[dict[str, Any]]:
    """Measure the least that training can take; return the rows of `floor.Pass` with their seconds."""
    run("python -m benchmarks.floor data/dataset.pkl floor.json", project)
    return json.loads((project / "floor.json").read_text())


def run_serving(project: Path, images: int, seconds: float) -> list[dict[str, Any]]:
    """Measure how fast the project's model is served; return the rows of `serving.Way`."""
    run(f"python -m benchmarks.serving serving.json --images {images} --seconds {seconds:g}", project)
    return json.loads((project / "serving.json").read_text())


def describe_machine() -> str:
    """Return processor, memory and versions, without a name of the machine or a time."""
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = next((line.split(": ")[1] for line in cpuinfo.splitlines() if line.startswith("model name")), "processor")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    installed = {found.name.removesuffix("_cpu"): found.version for found in distributions()}
    command = ("git", "describe", "--always", "--dirty", "--exclude=*")
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip() or "none"
    versions = f"Python {platform.python_version()}, TensorFlow {installed['tensorflow']}, Keras {installed['keras']}"
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GB; {versions}; commit {commit}.\n"
