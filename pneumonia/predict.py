"""Turn films into probabilities: evaluation, registry and server all go through here."""

import keras
import numpy as np
import numpy.typing as npt

from pneumonia.activations import run_batches
from pneumonia.images import Pixels


def predict_probabilities(model: keras.Model, images: Pixels) -> npt.NDArray[np.float64]:
    """Return the probability of pneumonia for each film.

    Args:
        model: a classifier that ends in one logit.
        images: grey values 0 to 255, uint8 (n, side, side), side as the model expects.

    Returns:
        Shape (n,), 0 to 1.
    """
    logits = np.concatenate([batch for _, batch in run_batches(model, images)])[:, 0].astype(np.float64)
    return 1 / (1 + np.exp(-logits))
