"""Verify that the files of a version are the ones that were registered."""

import json
from pathlib import Path

from mlflow.entities.model_registry import ModelVersion

from pneumonia.core.errors import InputError
from pneumonia.core.files import sha256_bytes, sha256_file
from pneumonia.registry.versions import MODEL_NAME, download_version, find_alias


def digest_files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a version by relative path, and one of its code as a whole."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    # MLflow adds the first to every download; Python writes the others when it imports the code.
    kept = {name: p for name, p in files.items() if name != "registered_model_meta" and p.suffix != ".pyc"}
    digests = {name: sha256_file(path) for name, path in kept.items()}
    code = [f"{name} {digests.pop(name)}" for name in list(digests) if name.startswith("code/")]
    return digests | {"code": sha256_bytes("\n".join(code).encode())}


def find_changes(version: ModelVersion, folder: Path | None = None) -> list[str]:
    """Return the names of files that were changed, added or removed since registration, sorted.

    Args:
        version: the version.
        folder: where its files are, if already downloaded.

    Raises:
        InputError: the version was registered without digests.
    """
    if "digests" not in version.tags:
        raise InputError(
            f"Version {version.version} of {MODEL_NAME} holds no digests.",
            expected="a version that this project registered",
            remedy="register the model again: dvc repro",
        )
    expected, found = json.loads(version.tags["digests"]), digest_files(folder or download_version(version))
    return [name for name in sorted(expected | found) if expected.get(name) != found.get(name)]


def ensure_unchanged(version: ModelVersion, folder: Path | None = None) -> None:
    """Refuse a version whose files changed since registration; arguments as for `find_changes`.

    Raises:
        InputError: a file changed, or the version holds no digests.
    """
    if changed := find_changes(version, folder):
        champion = find_alias("champion")
        is_champion = champion is not None and champion.version == version.version
        undo = 'python -m pneumonia registry rollback --reason "..."' if is_champion else "delete that version"
        raise InputError(
            f"Version {version.version} of {MODEL_NAME} is not what was registered: {', '.join(changed)} changed.",
            expected="the digests stored at registration",
            remedy=f"restore its files, or: {undo}",
        )
