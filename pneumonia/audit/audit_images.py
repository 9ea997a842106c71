"""Audit the images that the split stage dealt: read predictions and features, find issues, write tables and a page."""

from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pandas as pd
from scipy.special import expit

from pneumonia.audit.issues import examine_features, score_labels
from pneumonia.audit.page import write_page
from pneumonia.augment.build import read_split
from pneumonia.core.dataset import Pixels
from pneumonia.core.errors import InputError
from pneumonia.core.names import CLASSES
from pneumonia.core.params import Params
from pneumonia.core.params_file import load_params
from pneumonia.core.runtime import use_threads
from pneumonia.core.tables import read_splits, write_table
from pneumonia.models.activations import ActivationCache
from pneumonia.models.backbones import find_image_size
from pneumonia.models.classifier import build_model
from pneumonia.models.cut import cut_model

SPLITS, RAW, MODEL = Path("data/splits.csv"), Path("data/raw"), Path("models/finetuned.keras")
PREDICTIONS = {"image": "str", "sha256": "str", "recipe": "str", "seed": "int64", "log_odds": "float64"}


class Audit(NamedTuple):
    """What was found, worst first; images are named by `image`, `sha256`, `patient`, `split` and `label`.

    Attributes:
        labels: of each image with predictions: probability (of PNEUMONIA), seeds, score and doubtful.
        pairs: near duplicates: the same of both images, the other's columns beginning with other_; distance.
        outliers: of each image: score and outlier.
    """

    labels: pd.DataFrame
    pairs: pd.DataFrame
    outliers: pd.DataFrame


def audit_images(predictions: Path, recipe: str | None, shown: int, out: Path) -> Audit:
    """Write doubtful labels, near duplicates and outliers to a folder, as tables and as a page with pictures.

    Labels are judged by the mean over seeds of the log odds of a cross-validation, so only its images are. Near
    duplicates and outliers are searched among all images, by the pooled features of the frozen backbone.

    Args:
        predictions: CSV of a cross-validation.
        recipe: whose predictions; its first one by default.
        shown: most pictures of each kind on the page.
        out: folder to write to.

    Raises:
        InputError: a table is missing, or names other images than data/splits.csv; or cleanlab is not installed.
    """
    params, records = load_params(), read_splits(SPLITS)
    use_threads(params.compute.threads)
    predicted = _read_predictions(predictions, recipe, records)
    images = read_split(records, RAW, find_image_size(params.model)).images
    audit = _find_issues(records, predicted, images, params)
    for name, table in audit._asdict().items():
        write_table(table.round(6), out / f"{name}.csv")
    write_page(out / "index.html", audit.labels, audit.pairs, audit.outliers, records, images, MODEL, params, shown)
    return audit


def _read_predictions(path: Path, recipe: str | None, records: pd.DataFrame) -> pd.DataFrame:
    """Return probability and number of seeds of each image that a recipe predicted, indexed by its path."""
    if not path.exists():
        raise InputError(
            f"{path} does not exist.", expected="predictions of a cross-validation", remedy="make crossval"
        )
    try:
        table = pd.read_csv(path, dtype=PREDICTIONS, usecols=list(PREDICTIONS), keep_default_na=False)  # pyright: ignore
    except ValueError as error:
        raise InputError(
            f"{path} holds no predictions: {error}.",
            expected="predictions.csv of a cross-validation", remedy="make crossval",
        ) from None  # fmt: skip
    recipes = list(table["recipe"].unique())
    recipe = recipe or next(iter(recipes), None)
    if recipe not in recipes:
        raise InputError(
            f"{path} has no predictions of {recipe}.",
            expected=f"one of {', '.join(recipes) or 'its recipes, but it has none'}", remedy="correct --recipe",
        )  # fmt: skip
    chosen = table[table["recipe"] == recipe]
    strange = chosen["image"].map(records.set_index("path")["sha256"]) != chosen["sha256"]
    if strange.any():
        raise InputError(
            f"{path} predicts {chosen.loc[strange, 'image'].nunique():,} images that {SPLITS} does not have.",
            expected="predictions of these images", remedy="cross-validate again: make crossval",
        )  # fmt: skip
    seeds = chosen.groupby("image", sort=False)["log_odds"].agg(["mean", "size"])
    return pd.DataFrame({"probability": expit(seeds["mean"]), "seeds": seeds["size"]})


def _find_issues(records: pd.DataFrame, predicted: pd.DataFrame, images: Pixels, params: Params) -> Audit:
    named = records.rename(columns={"path": "image", "patient_id": "patient"})
    named = named[["image", "sha256", "patient", "split", "label"]]
    labels = named["label"].eq(CLASSES[1]).to_numpy(np.uint8)
    judged = named[named["image"].isin(predicted.index)]
    found = judged.join(predicted, on="image").reset_index(drop=True)
    scores = score_labels(labels[judged.index], found["probability"].to_numpy())
    doubtful = pd.concat([found, scores], axis=1).sort_values(["doubtful", "score"], ascending=[False, True])
    keras.utils.set_random_seed(params.train.seed)  # random weights are those of the pipeline
    cache = ActivationCache(params.compute, params.cache)
    features = cache.read(cut_model(build_model(params.model)).frozen, images)[:]
    typical, pairs = examine_features(labels, features)
    outliers = pd.concat([named, typical], axis=1).sort_values("score", kind="stable")
    first = named.iloc[pairs["first"]].reset_index(drop=True)
    second = named.iloc[pairs["second"]].reset_index(drop=True).add_prefix("other_")
    return Audit(doubtful, pd.concat([first, second, pairs["distance"]], axis=1), outliers)
