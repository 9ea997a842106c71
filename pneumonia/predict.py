"""Turn films into probabilities: evaluation, registry and server all go through here."""

import keras
import numpy as np
import numpy.typing as npt

from pneumonia.activations import ActivationCache, run_batches
from pneumonia.images import Pixels
from pneumonia.model import cut_model

BATCH_SIZE = 64  # measured on 2 cores: 32 is 5 % slower, 128 no faster


def predict_probabilities(
    model: keras.Model, images: Pixels, cache: ActivationCache | None = None
) -> npt.NDArray[np.float64]:
    """Return the probability of pneumonia for each film.

    Args:
        model: a classifier that ends in one logit.
        images: grey values 0 to 255, uint8 (n, side, side), side as the model expects.
        cache: keeps what the frozen part of the model says of these films; without it nothing of them is kept.

    Returns:
        Shape (n,), 0 to 1.
    """
    inputs, part, batch_size = images, model, cache.compute.batch_size if cache else BATCH_SIZE
    if cache and (cut := cut_model(model)).prefixes:
        inputs, part = cache.read(cut.prefixes, images), cut.tail
    batches = [batch for _, batch in run_batches(part, inputs, batch_size)]
    logits = np.concatenate([np.empty((0, 1)), *batches])[:, 0].astype(np.float64)
    return np.exp(-np.logaddexp(0, -logits))
