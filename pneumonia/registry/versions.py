"""Versions in the MLflow model registry: what one holds, and whether it still holds it."""

import json
import shutil
import warnings
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import mlflow
import pandas as pd
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import AnyType
from PIL import Image

from pneumonia.core.errors import InputError
from pneumonia.core.files import sha256_bytes, sha256_file
from pneumonia.core.params import Params
from pneumonia.registry.promotion import MODEL_NAME, find_alias
from pneumonia.tracking.connection import connect
from pneumonia.tracking.provenance import find_commit, find_versions

# What a stored version needs to be loaded elsewhere.
REQUIREMENTS = (
    *("filelock", "keras", "matplotlib", "mlflow", "numpy", "pandas", "pillow", "pydantic"),
    *("pydicom", "pyyaml", "scikit-learn", "scipy", "tensorflow", "tqdm"),
)
SHIPPED = ("core", "images", "models", "inference")  # folders of code in a version
MLFLOW_MODEL = Path(__file__).with_name("mlflow_model.py")


class Package(NamedTuple):
    """Files that a version holds, beside the code that reads images and runs the model.

    Attributes:
        model: .keras file.
        operating_point: JSON, see `OperatingPoint`.
        novelty: .npz file, see `Novelty`.
        predictions: what the model says of each test image, as the evaluate stage writes it.
        model_card: Markdown.
    """

    model: Path
    operating_point: Path
    novelty: Path
    predictions: Path
    model_card: Path

    @property
    def sha256(self) -> str:
        """What identifies a version: model, operating point, novelty, predictions on test, and the code it ships."""
        digests = [sha256_file(path) for path in (*self[:4], *list_shipped())]
        return sha256_bytes("".join(digests).encode())


def list_shipped() -> list[Path]:
    """Return the code that a version ships: what reads images and scores them, and nothing else."""
    package = Path(__file__).parents[1]
    shipped = [path for folder in SHIPPED for path in sorted((package / folder).glob("*.py"))]
    return [package / "__init__.py", *shipped, MLFLOW_MODEL]


def describe_version(params: Params, metrics: Mapping[str, float], splits: Path) -> dict[str, str]:
    """Return the tags of a version: its test metrics and where it comes from.

    Args:
        params: all parameters.
        metrics: of the test split.
        splits: table of images and splits; its SHA-256 identifies the data.
    """
    return {f"test_{name}": str(value) for name, value in metrics.items()} | {
        "git_commit": find_commit(),
        "recipe": params.recipe,
        "data_source": params.data.source,
        "split": params.split.strategy,
        "data_sha256": sha256_file(splits),
        "synthetic": str(bool(params.data.notice)),
    }


def find_version(sha256: str) -> ModelVersion | None:
    """Return the registered version of this SHA-256, see `Package`."""
    connect()
    found = mlflow.MlflowClient().search_model_versions(f"name = '{MODEL_NAME}' and tags.package_sha256 = '{sha256}'")
    return found[0] if found else None


def get_version(number: str) -> ModelVersion:
    """Return a version by its number or alias.

    Raises:
        InputError: there is none.
    """
    if found := find_alias(number):
        return found
    try:
        return mlflow.MlflowClient().get_model_version(MODEL_NAME, number)
    except MlflowException:
        numbers = sorted(int(version.version) for version in list_versions())
        raise InputError(
            f"{MODEL_NAME} has no version {number!r}.",
            expected=f"champion, challenger or one of {numbers}",
            remedy="python -m pneumonia registry list",
        ) from None


def list_versions() -> list[ModelVersion]:
    """Return all versions, the latest first."""
    connect()
    versions = mlflow.MlflowClient().search_model_versions(f"name = '{MODEL_NAME}'")
    return sorted(versions, key=lambda version: -int(version.version))


def register_package(run: Run, package: Package, tags: dict[str, str], notice: str) -> ModelVersion:
    """Log a package as an MLflow model of its run and register it, once per SHA-256, as challenger.

    Args:
        run: the fine-tune run that made the model.
        package: its files.
        tags: of the version.
        notice: description of the version.
    """
    tags = tags | {"model_sha256": sha256_file(package.model), "package_sha256": package.sha256}
    version = find_version(package.sha256) or _create_version(run, package, tags, notice)
    mlflow.MlflowClient().set_registered_model_alias(MODEL_NAME, "challenger", version.version)
    return version


def _create_version(run: Run, package: Package, tags: dict[str, str], notice: str) -> ModelVersion:
    image = Schema([ColSpec(AnyType(), "image")])
    columns = {"probability": DataType.double, "decision": DataType.string, "novel": DataType.boolean}
    said = Schema([ColSpec(kind, name) for name, kind in columns.items()])
    mlflow.start_run(run_id=run.info.run_id)
    try:
        with warnings.catch_warnings(), TemporaryDirectory() as folder:
            code = Path(folder) / "pneumonia"
            for path in list_shipped()[:-1]:
                target = code / path.relative_to(Path(__file__).parents[1])
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
            # MLflow is warned of itself: of its own type hints, and of how it compares columns with pandas 3.1.
            warnings.filterwarnings("ignore", ".*type hint", UserWarning)
            warnings.filterwarnings("ignore", "Operation with range", DeprecationWarning)
            logged = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(MLFLOW_MODEL),
                code_paths=[str(code)],
                artifacts={name: str(path) for name, path in package._asdict().items()},
                signature=ModelSignature(image, said),
                input_example=pd.DataFrame({"image": [_draw_blank()]}),
                pip_requirements=[f"{name}=={version}" for name, version in find_versions(REQUIREMENTS).items()],
            )
    finally:
        mlflow.end_run()
    tags = tags | {"digests": json.dumps(_digest(Path(mlflow.artifacts.download_artifacts(logged.model_uri))))}
    created = mlflow.register_model(logged.model_uri, MODEL_NAME, tags=tags)
    return mlflow.MlflowClient().update_model_version(MODEL_NAME, created.version, notice)


def _draw_blank() -> bytes:
    """Return a PNG file that shows what MLflow is to be given."""
    buffer = BytesIO()
    Image.new("L", (64, 64)).save(buffer, "PNG")
    return buffer.getvalue()


def _digest(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a stored version, of its code as a whole."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    # MLflow adds the first to what it downloads; Python writes the others where code is loaded from.
    kept = {name: p for name, p in files.items() if name != "registered_model_meta" and p.suffix != ".pyc"}
    digests = {name: sha256_file(path) for name, path in kept.items()}
    code = [f"{name} {digests.pop(name)}" for name in list(digests) if name.startswith("code/")]
    return digests | {"code": sha256_bytes("\n".join(code).encode())}


def download_version(version: ModelVersion, into: Path | None = None) -> Path:
    """Fetch all files of a version, `into` a folder or to where MLflow chooses, and return where they lie.

    Raises:
        InputError: they are not there.
    """
    try:
        uri = f"models:/{MODEL_NAME}/{version.version}"
        return Path(mlflow.artifacts.download_artifacts(uri, dst_path=into and str(into)))
    except (MlflowException, OSError) as error:
        raise InputError(
            f"The files of version {version.version} of {MODEL_NAME} cannot be fetched: {error}.",
            expected="what was stored when it was registered",
            remedy="restore them from a backup, or register the model again: dvc repro",
        ) from error


def read_predictions(version: ModelVersion) -> pd.DataFrame:
    """Return what a version says of each of its test images, see the evaluate stage.

    Raises:
        InputError: the version holds none.
    """
    # One file of the version, not the model with it.
    uri = f"models:/{MODEL_NAME}/{version.version}/artifacts/predictions.csv"
    try:
        return pd.read_csv(mlflow.artifacts.download_artifacts(uri), dtype={"sha256": "str", "patient_id": "str"})
    except (MlflowException, OSError) as error:
        raise InputError(
            f"Version {version.version} of {MODEL_NAME} holds no predictions: {error}.",
            expected="what the evaluate stage wrote, stored with the version",
            remedy=f"restore what `python -m pneumonia registry verify {version.version}` names, or roll back",
        ) from error


def verify_version(version: ModelVersion, folder: Path | None = None) -> list[str]:
    """Return the names of what in a stored version is not what was registered; none is well.

    Args:
        version: the version.
        folder: where its files were fetched to already.

    Raises:
        InputError: the version was registered without digests.
    """
    if "digests" not in version.tags:
        raise InputError(
            f"Version {version.version} of {MODEL_NAME} holds no digests.",
            expected="a version that this project registered",
            remedy="register the model again: dvc repro",
        )
    expected, found = json.loads(version.tags["digests"]), _digest(folder or download_version(version))
    return [name for name in sorted(expected | found) if expected.get(name) != found.get(name)]


def ensure_unchanged(version: ModelVersion, folder: Path | None = None) -> None:
    """Refuse a stored version that is not what was registered, see `verify_version`.

    Raises:
        InputError: a file differs, or there are no digests.
    """
    if changed := verify_version(version, folder):
        champion = find_alias("champion")
        is_champion = champion is not None and champion.version == version.version
        undo = 'python -m pneumonia registry rollback --reason "..."' if is_champion else "delete that version"
        raise InputError(
            f"Version {version.version} of {MODEL_NAME} is not what was registered: {', '.join(changed)} changed.",
            expected="the digests that were kept when it was registered",
            remedy=f"restore its files, or: {undo}",
        )


def describe_versions() -> list[str]:
    """Return a line for each version that has an alias."""
    lines = []
    for alias in ("champion", "challenger"):
        if version := find_alias(alias):
            measured, recipe = (version.tags.get(name, "unknown") for name in ("test_roc_auc", "recipe"))
            lines.append(f"{alias}: version {version.version}, test ROC AUC {measured}, recipe {recipe}")
    return lines
