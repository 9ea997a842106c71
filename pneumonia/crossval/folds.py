"""Deal images into folds: stratified by class, and grouped by patient and by identical pixels."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from pneumonia.core.errors import InputError
from pneumonia.core.names import CLASSES
from pneumonia.core.params import SplitParams
from pneumonia.records.splits import deal_patients, group_patients, require_patients


def deal_folds(
    records: pd.DataFrame, folds: int, params: SplitParams, each_image: bool, alike: pd.DataFrame | None = None,
    classes: Sequence[str] = CLASSES,
) -> list[pd.DataFrame]:  # fmt: skip
    """Return, for each fold, the images with a column `split`: what is held out is test, the rest train and val.

    scikit-learn's StratifiedGroupKFold deals. The rest of a fold is dealt once more, in the ratio of `train` to `val`
    and again by patient: its validation part chooses epoch, temperature and threshold, and what is held out chooses
    nothing. Both follow from `split.seed` alone, so every recipe and seed has the same folds.

    Args:
        records: the images that take part, columns as in core.tables.DTYPES.
        folds: how many, at least 2.
        params: section split.
        each_image: whether the user said that an image whose patient is unknown counts as a patient.
        alike: pairs of near duplicates to keep together, see `group_patients`.
        classes: that labels are of; every part of a fold holds all of them.

    Raises:
        InputError: patients are unknown, or too few of a class for so many folds, or for a validation part.
    """
    if not each_image:
        require_patients(records, "a fold keeps a patient together")
    groups = group_patients(records, alike)
    counts = pd.Series(groups).groupby(records["label"].to_numpy()).nunique().reindex(classes, fill_value=0)
    if folds < 2 or counts.min() < folds:
        raise InputError(
            f"{folds} folds cannot be dealt: there are {counts.to_dict()} patients of each class.",
            expected="at least 2 folds, and as many patients of each class",
            remedy="lower --folds, or add images",
        )
    dealer = StratifiedGroupKFold(folds, shuffle=True, random_state=params.seed)
    tables = []
    for rest, held_out in dealer.split(records, records["label"], groups):
        split = np.full(len(records), "test", dtype=object)
        shares = (params.ratios.train, params.ratios.val)
        split[rest] = np.array(["train", "val"])[deal_patients(records.iloc[rest], shares, params.seed, alike)]
        tables.append(_check(records.assign(split=split), records.iloc[held_out], classes))
    return tables


def _check(table: pd.DataFrame, held_out: pd.DataFrame, expected: Sequence[str]) -> pd.DataFrame:
    """Return the table if each of its parts holds all classes; an AUC needs them, and so does a temperature."""
    classes = table.groupby("split")["label"].nunique()
    if len(classes) < 3 or classes.min() < len(expected):
        raise InputError(
            f"A fold of {len(held_out):,} images would lack a class in one of its parts: {classes.to_dict()}.",
            expected="all classes in training, in validation and in what is held out",
            remedy="lower --folds, raise split.ratios.val, or add images",
        )
    return table
