"""What a model is judged by: its metrics, its splits, and its predictions on images of both test splits."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd
from mlflow.entities.model_registry import ModelVersion

from pneumonia.core.tables import tell_apart
from pneumonia.evaluation.bounds import bound_gains
from pneumonia.evaluation.intervals import compare_models
from pneumonia.evaluation.metrics import measure
from pneumonia.registry.versions import bad_tag, read_predictions

METRICS = ("roc_auc", "sensitivity", "specificity", "calibration_error", "threshold")  # of a version, that count here


@dataclass(frozen=True)
class Evidence:
    """What a model is judged by.

    Attributes:
        name: how checks refer to the model.
        metrics: of its own test split, its threshold among them; a missing one counts as not reached.
        synthetic: whether it was trained on synthetic images.
        crossing_patients: how many patients have images in more than one of its splits, None if that is unknown.
        split: how its splits were drawn, see `describe_split`.
        read: returns its predictions on its test images, as the evaluate stage wrote them; None if none are stored.
    """

    name: str
    metrics: Mapping[str, float]
    synthetic: bool
    crossing_patients: int | None
    split: str
    read: Callable[[], pd.DataFrame] | None

    @property
    def splits_patients(self) -> bool:
        """Tell whether images of a patient may be in more than one of its splits."""
        return self.crossing_patients != 0


def find_evidence(version: ModelVersion, name: str) -> Evidence:
    """Return the evidence stored with a version; without a digest or threshold, as by hand, it has no predictions.

    Raises:
        InputError: a tag that holds a number of ours holds something else.
    """
    tags = version.tags
    metrics = {metric: _read_number(version, f"test_{metric}") for metric in METRICS if f"test_{metric}" in tags}
    counted = tags.get("crossing_patients", "unknown")
    crossing = None if counted == "unknown" else int(_read_number(version, "crossing_patients"))
    read = cache(partial(read_predictions, version)) if {"package_sha256", "test_threshold"} <= tags.keys() else None
    return Evidence(name, metrics, tags.get("synthetic") == "True", crossing, tags.get("split_drawn", "unknown"), read)


def _read_number(version: ModelVersion, tag: str) -> float:
    try:
        return float(version.tags[tag])
    except ValueError:
        raise bad_tag(version.tags[tag], tag, f"version {version.version}", "number") from None


def describe_split(split: Mapping[str, Any]) -> str:
    """Return how splits are drawn, in a line, from the section `split` of params.yaml."""
    return f"{split['strategy']} {'/'.join(map(str, split['ratios'].values()))} seed {split['seed']}"


def find_common_images(champion: Evidence, challenger: Evidence) -> pd.DataFrame:
    """Return the images, by SHA-256, that are in the test splits of both, with the predictions of both.

    An image in both test splits is in neither training split, so neither model was trained on it.

    Returns:
        The challenger's table with the probabilities of pneumonia as finetuned_champion and finetuned_challenger.

    Raises:
        InputError: the predictions of one of them cannot be read.
    """
    assert champion.read and challenger.read
    theirs, ours = champion.read(), challenger.read()
    common = theirs[["sha256", "finetuned"]].merge(ours, on="sha256", suffixes=("_champion", "_challenger"))
    return common.drop_duplicates("sha256")


def measure_gains(images: pd.DataFrame, champion: Evidence, challenger: Evidence) -> pd.DataFrame:
    """Return by how much the challenger exceeds the champion on common images, see `intervals.compare_models`."""
    return compare_models(*_arrange(images, champion, challenger))


def find_lower_bounds(images: pd.DataFrame, champion: Evidence, challenger: Evidence) -> dict[str, float]:
    """Return the lower bounds of these gains, see `bounds.bound_gains`."""
    return bound_gains(*_arrange(images, champion, challenger))


def _arrange(images: pd.DataFrame, champion: Evidence, challenger: Evidence) -> tuple[Any, Any, Any, Any, Any]:
    # As `compare_models` and `bound_gains` take it.
    scores = [images[f"finetuned_{name}"].to_numpy() for name in ("champion", "challenger")]
    thresholds = (champion.metrics["threshold"], challenger.metrics["threshold"])
    return images["actual"].to_numpy(np.uint8), *scores, thresholds, tell_apart(images).to_numpy()


def estimate_gains(champion: Evidence, challenger: Evidence) -> dict[str, float]:
    """Return by how much the challenger exceeds the champion in each metric on common images, without intervals."""
    images = find_common_images(champion, challenger)
    theirs, ours = (
        measure(images["actual"].to_numpy(np.uint8), images[f"finetuned_{name}"].to_numpy(), model.metrics["threshold"])
        for name, model in (("champion", champion), ("challenger", challenger))
    )
    return {metric: value - theirs[metric] for metric, value in ours.items()}
