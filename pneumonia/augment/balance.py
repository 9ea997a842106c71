"""Balance the classes of the training split, in images or in weights."""

import numpy as np
import pandas as pd

from pneumonia.core.names import CLASSES
from pneumonia.core.params import AugmentParams


def balance(train: pd.DataFrame, params: AugmentParams) -> pd.DataFrame:
    """Make the classes equally large by altered copies of the rarer one, or by leaving out images of the other.

    Args:
        train: training images, with columns path and label.
        params: `balance`, augment or undersample; class_weight and none keep the images as they are. And `seed`.

    Returns:
        The images with a column `augmented`. Altered copies come after all images; none is altered a second time
        before every image of its class was altered once.
    """
    rng = np.random.default_rng([params.seed, 1])
    counts = train["label"].value_counts().reindex(CLASSES)
    minority, majority = (np.flatnonzero(train["label"] == name) for name in counts.sort_values(kind="stable").index)
    train = train.assign(augmented=False)
    if params.balance == "undersample":
        kept = rng.choice(majority, len(minority), replace=False)
        return train.iloc[np.sort(np.r_[minority, kept])]
    if params.balance == "augment" and (missing := len(majority) - len(minority)):
        rounds = -(-missing // len(minority))
        chosen = np.concatenate([rng.permutation(minority) for _ in range(rounds)])[:missing]
        return pd.concat([train, train.iloc[chosen].assign(augmented=True)])
    return train


def weigh_classes(train: pd.DataFrame, params: AugmentParams) -> dict[int, float]:
    """Return the weight of each label in the loss: 1, or with `balance: class_weight` n / (2 * images of its class).

    This is scikit-learn's class_weight="balanced".
    """
    if params.balance != "class_weight":
        return {0: 1.0, 1: 1.0}
    counts = train["label"].value_counts()
    return {label: float(counts.sum() / (2 * counts[name])) for label, name in enumerate(CLASSES)}
