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


def score_outliers(labels: npt.NDArray[Any], features: Floats) -> pd.DataFrame:
    """Return how typical the features of each image are: columns score, 0 to 1, low where it is odd; and outlier."""
    found = _examine(labels, features, "outlier").get_issues("outlier")
    return pd.DataFrame({"score": found["outlier_score"].to_numpy(), "outlier": found["is_outlier_issue"].to_numpy()})


def find_near_duplicates(labels: npt.NDArray[Any], features: Floats) -> pd.DataFrame:
    """Return pairs of images whose features nearly agree: their distance is far below that of other neighbours.

    Returns:
        Columns first, second (row numbers, first < second) and distance (cosine, 0 to 2), nearest first.
    """
    sets = _examine(labels, features, "near_duplicate").get_info("near_duplicate")["near_duplicate_sets"]
    pairs = sorted(
        {(min(row, int(other)), max(row, int(other))) for row, others in enumerate(sets) for other in others}
    )
    first, second = np.array(pairs, np.int64).reshape(-1, 2).T
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    distances = 1 - (unit[first] * unit[second]).sum(axis=1)
    table = pd.DataFrame({"first": first, "second": second, "distance": distances})
    return table.sort_values("distance", kind="stable", ignore_index=True)


def _examine(labels: npt.NDArray[Any], features: Floats, issue: str) -> Any:
    lab = _make_lab(labels)
    lab.find_issues(features=features, issue_types={issue: {}})
    return lab


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
