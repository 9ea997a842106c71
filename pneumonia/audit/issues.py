"""Find doubtful labels, near duplicates and outliers with cleanlab's Datalab."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pneumonia.core.errors import InputError

Floats = npt.NDArray[np.floating[Any]]


def score_labels(labels: npt.NDArray[Any], probabilities: Floats) -> pd.DataFrame:
    """Return how far each label is to be trusted, by predictions of models that did not train on it.

    Northcutt et al. 2021, "Confident learning", JAIR 70, doi:10.1613/jair.1.12125, section 3.

    Args:
        labels: 0 or 1, (n,).
        probabilities: out-of-fold, of label 1, (n,).

    Returns:
        Columns score, 0 to 1, the probability of the given label, low where it is doubtful; and doubtful.
    """
    lab = _make_lab(labels)
    lab.find_issues(pred_probs=np.column_stack([1 - probabilities, probabilities]), issue_types={"label": {}})
    found = lab.get_issues("label")
    return pd.DataFrame({"score": found["label_score"].to_numpy(), "doubtful": found["is_label_issue"].to_numpy()})


def examine_features(labels: npt.NDArray[Any], features: Floats) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Find outliers and near duplicates among images, by one graph of their nearest neighbours.

    Args:
        labels: 0 or 1, (n,).
        features: pooled activations, (n, c).

    Returns:
        How typical each image is: columns score, 0 to 1, low where it is odd; and outlier. And pairs whose features
        nearly agree, their distance far below that of other neighbours: columns first, second (row numbers,
        first < second) and distance (cosine, 0 to 2), nearest first.
    """
    lab = _make_lab(labels)
    lab.find_issues(features=features, issue_types={"outlier": {}, "near_duplicate": {}})
    return _list_outliers(lab), _list_pairs(lab, features)


def _list_outliers(lab: Any) -> pd.DataFrame:
    found = lab.get_issues("outlier")
    return pd.DataFrame({"score": found["outlier_score"].to_numpy(), "outlier": found["is_outlier_issue"].to_numpy()})


def _list_pairs(lab: Any, features: Floats) -> pd.DataFrame:
    sets = lab.get_info("near_duplicate")["near_duplicate_sets"]
    pairs = sorted(
        {(min(row, int(other)), max(row, int(other))) for row, others in enumerate(sets) for other in others}
    )
    first, second = np.array(pairs, np.int64).reshape(-1, 2).T
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    distances = 1 - (unit[first] * unit[second]).sum(axis=1)
    table = pd.DataFrame({"first": first, "second": second, "distance": distances})
    return table.sort_values("distance", kind="stable", ignore_index=True)


def _make_lab(labels: npt.NDArray[Any]) -> Any:
    try:
        from cleanlab import Datalab
    except ModuleNotFoundError:
        raise InputError(
            "The audit needs cleanlab, which is not installed.",
            expected="the package cleanlab, part of the extra `audit`",
            remedy="make setup-audit",
        ) from None
    return Datalab(data={"label": labels}, label_name="label", task="classification", verbosity=0)
