"""What a version holds, and how it is registered: model, operating point, predictions and the code that scores."""

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
from mlflow.models import ModelSignature
from mlflow.models.model import ModelInfo
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import AnyType
from PIL import Image

from pneumonia.core.files import sha256_bytes, sha256_file
from pneumonia.core.params import Params
from pneumonia.registry.audit import find_promoter
from pneumonia.registry.evidence import describe_split
from pneumonia.registry.lock import hold_lock
from pneumonia.registry.verify import digest_files
from pneumonia.registry.versions import MODEL_NAME, find_version
from pneumonia.tracking.provenance import find_commit, find_versions

SOURCE = Path(__file__).parents[1]  # the package pneumonia
SHIPPED = ("core", "images", "models", "inference")  # its folders that a version ships
# What the shipped code imports when a version is loaded.
REQUIREMENTS = (
    *("filelock", "keras", "matplotlib", "mlflow", "numpy", "pandas", "pillow", "pydantic", "pydicom"),
    *("tensorflow", "tqdm"),
)


class Package(NamedTuple):
    """Files of a version, beside the code that it ships.

    Attributes:
        model: .keras file.
        operating_point: JSON, see `OperatingPoint`.
        novelty: .npz file, see `Novelty`.
        predictions: CSV, predictions on the test images, as the evaluate stage writes it.
        model_card: Markdown.
    """

    model: Path
    operating_point: Path
    novelty: Path
    predictions: Path
    model_card: Path

    @property
    def sha256(self) -> str:
        """What identifies a version: all its files but the model card, and the code that it ships."""
        files = [sha256_file(path) for path in self[:4]]
        code = [f"{path.relative_to(SOURCE).as_posix()} {sha256_file(path)}" for path in list_shipped()]
        return sha256_bytes("\n".join(files + code).encode())


def list_shipped() -> list[Path]:
    """Return the code that a version ships: what reads and scores images, and the MLflow model around it."""
    folders = [path for folder in SHIPPED for path in sorted((SOURCE / folder).glob("*.py"))]
    return [SOURCE / "__init__.py", *folders, SOURCE / "registry/mlflow_model.py"]


def collect_tags(
    params: Params, metrics: Mapping[str, float], splits: Path, crossing: Mapping[str, int | None]
) -> dict[str, str]:
    """Return the tags of a version: its test metrics and where it comes from.

    Args:
        params: all parameters.
        metrics: of the test split.
        splits: table of images and splits; its SHA-256 identifies the data.
        crossing: counts of what occurs in more than one split, see `count_crossing`.
    """
    measured = {f"test_{name}": str(value) for name, value in metrics.items()}
    counted = {name: "unknown" if count is None else str(count) for name, count in crossing.items()}
    return measured | counted | {
        "git_commit": find_commit(),
        "recipe": params.recipe,
        "data_source": params.data.source,
        "split": params.split.strategy,
        "split_drawn": describe_split(params.split.model_dump()),
        "data_sha256": sha256_file(splits),
        "synthetic": str(bool(params.data.notice)),
    }  # fmt: skip


def register_package(run: Run, package: Package, tags: dict[str, str], notice: str) -> ModelVersion:
    """Register a package, once per SHA-256, and make it challenger.

    Args:
        run: the fine-tune run that made the model.
        package: its files.
        tags: of the version.
        notice: description of the version.
    """
    tags = tags | {"model_sha256": sha256_file(package.model), "package_sha256": package.sha256}
    version, client = find_version(package.sha256) or _create_version(run, package, tags), mlflow.MlflowClient()
    if notice and not version.description:  # also of a version whose registration was killed
        version = client.update_model_version(MODEL_NAME, version.version, notice)
    client.set_registered_model_alias(MODEL_NAME, "challenger", version.version)
    return version


def _create_version(run: Run, package: Package, tags: dict[str, str]) -> ModelVersion:
    mlflow.start_run(run_id=run.info.run_id)
    try:
        logged = _log_model(package)
    finally:
        mlflow.end_run()
    digests, client = digest_files(Path(mlflow.artifacts.download_artifacts(logged.model_uri))), mlflow.MlflowClient()
    with hold_lock(find_promoter()) as ensure_held:
        if found := find_version(tags["package_sha256"]):  # by a run beside this one, since this one looked
            client.delete_logged_model(logged.model_id)
            return found
        ensure_held()
        return mlflow.register_model(logged.model_uri, MODEL_NAME, tags=tags | {"digests": json.dumps(digests)})


def _log_model(package: Package) -> ModelInfo:
    """Log a package as an MLflow model of the active run."""
    columns = {"probability": DataType.double, "decision": DataType.string, "novel": DataType.boolean}
    columns["error"] = DataType.string  # of an image that cannot be used, and then alone
    outputs = Schema([ColSpec(kind, name, required=False) for name, kind in columns.items()])
    with warnings.catch_warnings(), TemporaryDirectory() as folder:
        *code, entry = list_shipped()
        for path in code:
            target = Path(folder, "pneumonia", path.relative_to(SOURCE))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        # MLflow's own doing: its type hints, and how it compares columns under pandas 3.1.
        warnings.filterwarnings("ignore", ".*type hint", UserWarning)
        warnings.filterwarnings("ignore", "Operation with range", DeprecationWarning)
        return mlflow.pyfunc.log_model(
            name="model",
            python_model=str(entry),
            code_paths=[str(Path(folder, "pneumonia"))],
            artifacts={name: str(path) for name, path in package._asdict().items()},
            signature=ModelSignature(Schema([ColSpec(AnyType(), "image")]), outputs),
            input_example=pd.DataFrame({"image": [_draw_blank()]}),
            pip_requirements=[f"{name}=={version}" for name, version in find_versions(REQUIREMENTS).items()],
        )


def _draw_blank() -> bytes:
    """Return a blank PNG file as an input example."""
    buffer = BytesIO()
    Image.new("L", (64, 64)).save(buffer, "PNG")
    return buffer.getvalue()
