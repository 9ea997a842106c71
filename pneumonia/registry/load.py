"""Find the model that answers: a registered version, whose files are verified, or a file."""

from pathlib import Path
from tempfile import TemporaryDirectory

from pneumonia.inference.predictor import Predictor
from pneumonia.registry.versions import download_version, ensure_unchanged, get_version


def find_current(name: str) -> str:
    """Return what `name` stands for now: the number of a version, or the path itself.

    Args:
        name: champion, challenger, the number of a version, or the path of a .keras file.

    Raises:
        InputError: there is no such version.
    """
    return name if name.endswith(".keras") else str(get_version(name).version)


def load_predictor(name: str) -> Predictor:
    """Load a model by name, see `find_current`.

    Raises:
        InputError: there is no such model, or its files are not what was registered.
    """
    if name.endswith(".keras"):
        return Predictor.read(Path(name))
    version = get_version(name)
    with TemporaryDirectory() as folder:  # of a server's versions the files would pile up
        found = download_version(version, Path(folder))
        ensure_unchanged(version, found)
        return Predictor.read(found / "artifacts/finetuned.keras", str(version.version))
