"""Measure a model in subgroups of images: by kind of pneumonia, source folder, size and exposure."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pandas as pd

from pneumonia.core.dataset import Pixels
from pneumonia.core.names import CLASSES, parse_kind
from pneumonia.evaluation.intervals import Patients, measure_intervals
from pneumonia.evaluation.metrics import Labels, Probabilities

KINDS = ("bacteria", "virus", "unnamed pneumonia", "normal")
RATES = ("sensitivity", "specificity", "roc_auc")
MIN_PATIENTS = 10  # of a class: with fewer, a single patient moves a rate by more than a tenth
MIN_IMAGES = 30  # with fewer, the 95 % interval of a rate of 0.9 is wider than a fifth, from 0.74 to 0.97


def describe_groups(records: pd.DataFrame, images: Pixels) -> pd.DataFrame:
    """Return the group of each image in each of four groupings.

    Size and exposure are cut at the thirds of the given images, so other images have other bounds. Equal values share a
    group, the third in which their middle rank lies; fewer than three distinct values give as many groups.

    Args:
        records: a row for each image, columns as in core.tables.DTYPES.
        images: the same images, grey values 0 to 255, uint8 (n, side, side).

    Returns:
        Ordered categories, indexed like `records`: `kind`, one of KINDS, from file name and label; `source folder`, the
        owner's; `image size`, from the shorter side in pixels; `exposure`, from the mean grey value.
    """
    kinds = records["path"].map(parse_kind).fillna("unnamed pneumonia").where(records["label"] == CLASSES[1], "normal")
    # Whole grey values, so that a group's name states its bound exactly.
    grey = pd.Series(images.mean(axis=(1, 2)) // 1, records.index)
    return pd.DataFrame({
        "kind": pd.Categorical(kinds, KINDS, ordered=True),
        "source folder": pd.Categorical(records["source_folder"], ordered=True),
        "image size": _name_thirds(records[["width", "height"]].min(axis=1), _name_sizes),
        "exposure": _name_thirds(grey, _name_exposures),
    }, records.index)  # fmt: skip


def _name_thirds(values: "pd.Series[float]", name: Callable[[list[int]], list[str]]) -> "pd.Categorical[str]":
    """Return the third of each whole number; `name` takes the lowest number of every third that occurs."""
    thirds = 3 * (values.rank() - 0.5) // len(values)
    firsts = np.sort(values.groupby(thirds).min().to_numpy())
    names = name([int(first) for first in firsts])
    return pd.Categorical(np.array(names)[np.searchsorted(firsts, values, side="right") - 1], names, ordered=True)


def _name_sizes(firsts: list[int]) -> list[str]:
    if len(firsts) == 1:
        return [f"{firsts[0]} px"]
    middle = [f"{low} to {high - 1} px" for low, high in pairwise(firsts[1:])]
    return [f"up to {firsts[1] - 1} px", *middle, f"from {firsts[-1]} px"]


def _name_exposures(firsts: list[int]) -> list[str]:
    if len(firsts) == 1:
        return [f"mean {firsts[0]}"]
    return [f"dark (mean below {firsts[1]})", *["medium"] * (len(firsts) - 2), f"bright (mean from {firsts[-1]})"]


def measure_groups(
    groups: pd.DataFrame, labels: Labels, probabilities: Probabilities, threshold: float, patients: Patients,
    resamples: int = 2000, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Return a model's rates on the images of each group, with the intervals of `measure_intervals`.

    One interval in twenty misses the true value and there are many here: a group that stands out is a question to be
    asked of other images, not a finding. Without an error in the group no resample has one: the interval has no width.

    Args:
        groups: a column for each grouping, a row for each image, as `describe_groups` returns.
        labels: 0 or 1, shape (n,).
        probabilities: of pneumonia, 0 to 1, shape (n,).
        threshold: 0 to 1; a probability equal to it is called pneumonia.
        patients: the patient of each image, shape (n,).
        resamples: how many to draw for each group.
        seed: of the draw.

    Returns:
        A row for each group: by, group, images, patients, pneumonia (images); then value, _low and _high of RATES, NaN
        where the class a rate needs does not occur; and small: whether there are fewer than MIN_IMAGES images, or fewer
        than MIN_PATIENTS patients of a class that occurs.
    """
    images = pd.DataFrame({"label": labels, "probability": probabilities, "patient": patients})
    rows = []
    for by in groups:
        for group, part in images.groupby(groups[by].array, observed=True):
            label, probability, patient = (part[name].to_numpy() for name in images)
            table = measure_intervals(label, probability, threshold, patient, resamples, seed).loc[list(RATES)]
            ends = {"": "value", "_low": "low", "_high": "high"}
            rows.append({
                "by": by,
                "group": group,
                "images": len(part),
                "patients": part["patient"].nunique(),
                "pneumonia": int(label.sum()),
                **{f"{rate}{end}": table.at[rate, column] for rate in RATES for end, column in ends.items()},
                "small": len(part) < MIN_IMAGES or part.groupby("label")["patient"].nunique().min() < MIN_PATIENTS,
            })  # fmt: skip
    return pd.DataFrame(rows)
