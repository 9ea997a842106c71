"""Register versions whose predictions are made up."""

from pathlib import Path
from uuid import uuid4

import mlflow
import numpy as np
import pandas as pd
from mlflow.entities.model_registry import ModelVersion

from pneumonia.core.files import sha256_file
from pneumonia.core.params import Gates
from pneumonia.registry.audit import read_trail
from pneumonia.registry.promotion import promote
from pneumonia.registry.versions import MODEL_NAME

GATES = Gates(
    min_roc_auc=0.8, min_sensitivity=0.8, min_specificity=0.8, max_calibration_error=0.1,
    margin_roc_auc=0.02, margin_sensitivity=0.05, margin_specificity=0.05, min_common_images=50,
    min_common_patients=20,
)  # fmt: skip


TAGS = {
    "test_roc_auc": "0.9", "test_sensitivity": "0.9", "test_specificity": "0.9", "test_calibration_error": "0.05",
    "test_threshold": "0.5", "synthetic": "False", "crossing_patients": "0", "recipe": "default",
    "split_drawn": "patient 0.8/0.1/0.1 seed 123",
}  # fmt: skip


def draw_images(count: int = 200, of_each: int = 1, first: int = 0) -> pd.DataFrame:
    """Return test images as the evaluate stage writes them, without predictions yet.

    Args:
        count: of images, the even ones ill.
        of_each: images of a patient; all ill or all healthy.
        first: number of the first, by which images are told apart.
    """
    number = np.arange(first, first + count)
    actual = 1 - number % 2
    patient = [f"person{i // 2 // of_each}{'ab'[label]}" for i, label in zip(number, actual, strict=True)]
    return pd.DataFrame({
        "path": [f"test/{i}.jpeg" for i in number], "sha256": [f"{i:064x}" for i in number], "patient_id": patient,
        "label": np.array(["NORMAL", "PNEUMONIA"])[actual], "actual": actual, "initial": 0.5, "finetuned": 0.5,
    })  # fmt: skip


def predict(images: pd.DataFrame, noise: float, seed: int = 0) -> pd.DataFrame:
    """Return images with probabilities that are the truth and some noise: the more, the lower the ROC AUC."""
    seen = images["actual"] - 0.5 + noise * np.random.default_rng(seed).normal(size=len(images))
    return images.assign(finetuned=(1 / (1 + np.exp(-seen))).round(9))


def register(predictions: pd.DataFrame, **tags: str) -> ModelVersion:
    """Register a version that holds nothing but predictions and tags, which is all that the gate reads."""
    folder = Path.cwd() / uuid4().hex
    (folder / "artifacts").mkdir(parents=True)
    predictions.to_csv(folder / "artifacts/predictions.csv", index=False)
    identity = {"package_sha256": sha256_file(folder / "artifacts/predictions.csv")}
    created = mlflow.MlflowClient().create_model_version(MODEL_NAME, folder.as_uri(), tags=TAGS | identity | tags)
    return find_version(created.version)


def find_version(number: int | str) -> ModelVersion:
    """Return a version as the registry has it now."""
    return mlflow.MlflowClient().get_model_version(MODEL_NAME, str(number))


def crown(predictions: pd.DataFrame, **tags: str) -> ModelVersion:
    """Register a version and make it champion."""
    version = register(predictions, **tags)
    promote(str(version.version), find_champion(), "", {}, "Ada")
    return version


def find_champion() -> str | None:
    """Return the number of the champion."""
    return read_trail().champion


IMAGES = draw_images()


GOOD, WORSE = predict(IMAGES, 0.3), predict(IMAGES, 0.8)
