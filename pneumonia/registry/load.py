"""Load a model to predict with: a registered version, after verifying its files, or a .keras file."""

from pathlib import Path
from tempfile import TemporaryDirectory

from pneumonia.inference.predictor import Predictor
from pneumonia.registry.verify import ensure_unchanged
from pneumonia.registry.versions import download_version, get_version


def is_file(name: str) -> bool:
    """Return whether `name` is the path of a .keras file, not a registered version."""
    return name.endswith(".keras")


def find_current(name: str) -> str:
    """Return the number of the version that `name` stands for now.

    Args:
        name: champion, challenger or the number of a version.

    Raises:
        InputError: there is no such version.
    """
    return str(get_version(name).version)


def load_predictor(name: str) -> Predictor:
    """Load a model.

    Args:
        name: champion, challenger, the number of a version, or the path of a .keras file.

    Raises:
        InputError: there is no such model, or its files are not what was registered.
    """
    if is_file(name):
        return Predictor.read(Path(name))
    version = get_version(name)
    with TemporaryDirectory() as folder:  # or a server would pile up the files of every version
        found = download_version(version, Path(folder))
        ensure_unchanged(version, found)
        return Predictor.read(found / "artifacts/finetuned.keras", str(version.version))
