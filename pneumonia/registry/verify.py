"""Verify that the files of a version are the ones that were registered."""

from pathlib import Path

from mlflow.entities.model_registry import ModelVersion

from pneumonia.core.errors import InputError
from pneumonia.core.files import sha256_bytes, sha256_file
from pneumonia.registry.versions import MODEL_NAME, download_version, find_alias, find_location, read_json


def digest_files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a version by relative path, and one of its code as a whole."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    # MLflow adds the first to every download; Python writes the others when it imports the code.
    kept = {name: p for name, p in files.items() if name != "registered_model_meta" and p.suffix != ".pyc"}
    digests = {name: sha256_file(path) for name, path in kept.items()}
    code = [f"{name} {digests.pop(name)}" for name in list(digests) if name.startswith("code/")]
    return digests | {"code": sha256_bytes("\n".join(code).encode())}


def find_changes(version: ModelVersion, folder: Path | None = None) -> dict[str, str]:
    """Return the names of files, sorted, that are "missing", or were "changed" or "added", since registration.

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
    expected = read_json(version.tags["digests"], "digests", f"version {version.version}", dict[str, str])
    found = digest_files(folder or download_version(version))
    changes = {}
    for name in sorted(expected | found):
        if expected.get(name) != found.get(name):
            gone = name not in found or (name == "code" and found[name] == sha256_bytes(b""))
            changes[name] = "missing" if gone else "changed" if name in expected else "added"
    return changes


def ensure_unchanged(version: ModelVersion, folder: Path | None = None) -> None:
    """Refuse a version whose files changed since registration; arguments as for `find_changes`.

    Raises:
        InputError: a file is missing or changed, or the version holds no digests.
    """
    if changes := find_changes(version, folder):
        kinds = sorted({*changes.values()})
        listed = [", ".join(name for name in changes if changes[name] == kind) + f" {kind}" for kind in kinds]
        champion = find_alias("champion")
        is_champion = champion is not None and champion.version == version.version
        undo = 'python -m pneumonia registry rollback --reason "..."' if is_champion else "delete that version"
        state = "has lost files" if kinds == ["missing"] else "is not what was registered"
        raise InputError(
            f"Version {version.version} of {MODEL_NAME} {state}: {'; '.join(listed)}.",
            expected=f"the files stored at registration, in {find_location(version)}",
            remedy=f"restore them from a backup of the store, or: {undo}",
        )
