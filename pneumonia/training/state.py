"""Keep what an interrupted training resumes from: found by its inputs, held by one process at a time."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import keras

from pneumonia.core.files import locked, project_home, remove_unless_locked, replacing, sha256_bytes, sha256_file
from pneumonia.core.params import FitParams
from pneumonia.models.activations import fingerprint

CODE = ("core", "models", "training")  # the folders that train and finetune depend on in dvc.yaml


def find_state(stage: Path, dataset: Path, model: keras.Model, params: FitParams, precision: str) -> Path:
    """Return the folder of a training's state, keyed by all that its outputs depend on.

    Args:
        stage: file of the DVC stage; names the folder, and counts as code like the folders of CODE.
        dataset: pickle of the augment stage.
        model: classifier before training.
        params: section of the phase.
        precision: of the activations.
    """
    code = hash_code(CODE) | {"stage": sha256_file(stage)}
    key = json.dumps([sha256_file(dataset), fingerprint(model), params.model_dump(), precision, code])
    return project_home() / ".cache" / "training" / f"{stage.stem}-{sha256_bytes(key.encode())[:16]}"


def hash_code(places: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 of each Python file of the package that is, or lies below, one of `places`."""
    package = Path(__file__).parents[1]
    wanted = [package / place for place in places]
    files = sorted(path for path in package.rglob("*.py") if any(path.is_relative_to(place) for place in wanted))
    return {str(path.relative_to(package)): sha256_file(path) for path in files}


@contextmanager
def hold_state(state: Path, out: Path) -> Iterator[None]:
    """Hold the state of a training; who trains the same meanwhile waits, and then finishes at once from what is there.

    The state outlives the training: if DVC is killed before it has stored `out`, the training is not repeated. It is
    once dvc.lock names `out`, since DVC then runs the stage again on purpose. One finished state of a phase is left.

    Args:
        state: folder of `find_state`.
        out: the model that the training writes.
    """
    with locked(state, "running the same training"):
        finished = state / "finished"
        if finished.exists() and finished.read_text() in _read_lock():
            shutil.rmtree(state)
        yield
        with out.open("rb") as file, replacing(finished) as beside:
            beside.write_text(hashlib.file_digest(file, "md5").hexdigest())  # as in dvc.lock
        phase = state.name.partition("-")[0]
        for other in {path.parent for path in state.parent.glob(f"{phase}-*/finished")} - {state}:
            remove_unless_locked(other)


def _read_lock() -> str:
    lock = Path("dvc.lock")
    return lock.read_text(errors="replace") if lock.exists() else ""
