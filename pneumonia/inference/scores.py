"""Turn images into probabilities: evaluation, registry and server all go through here."""

import keras
import numpy as np
import numpy.typing as npt

from pneumonia.core.dataset import Pixels
from pneumonia.inference.operating_point import OperatingPoint
from pneumonia.models.activations import ActivationCache, run_batches
from pneumonia.models.cut import cut_model

BATCH_SIZE = 64  # measured on 2 cores: 32 is 5 % slower, 128 no faster


def predict_log_odds(
    model: keras.Model, images: Pixels, cache: ActivationCache | None = None, flip: bool = False
) -> npt.NDArray[np.float64]:
    """Return the log odds of pneumonia of each image, as the model was trained.

    Args:
        model: a classifier that ends in one logit, the log odds of pneumonia.
        images: grey values 0 to 255, uint8 (n, side, side), side as the model expects.
        cache: keeps what the frozen part of the model says of these images; without it nothing of them is kept.
        flip: average the log odds of each image and of its mirror image.

    Returns:
        Shape (n,).
    """
    both = np.concatenate([images, images[..., ::-1]]) if flip else images
    inputs, part, batch_size = both, model, cache.compute.batch_size if cache else BATCH_SIZE
    if cache and (cut := cut_model(model)).frozen:
        inputs, part = cache.read(cut.frozen, both), cut.trainable
    batches = [batch for _, batch in run_batches(part, inputs, batch_size)]
    logits = np.concatenate([np.empty((0, 1)), *batches]).astype(np.float64)
    return logits.reshape(1 + flip, len(images)).mean(axis=0)


def predict_probabilities(
    model: keras.Model, images: Pixels, point: OperatingPoint, cache: ActivationCache | None = None
) -> npt.NDArray[np.float64]:
    """Return the calibrated probability of pneumonia of each image, 0 to 1, shape (n,); see `predict_log_odds`."""
    return point.find_probabilities(predict_log_odds(model, images, cache, point.flip))
