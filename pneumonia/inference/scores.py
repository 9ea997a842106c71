"""Score images: the one place where a forward pass becomes log odds and flips are averaged."""

from collections.abc import Callable
from functools import partial

import keras
import numpy as np
import numpy.typing as npt

from pneumonia.core.dataset import Pixels
from pneumonia.models.activations import ActivationCache, run_batches
from pneumonia.models.cut import Cut, cut_model

BATCH_SIZE = 64  # wherever compute.batch_size is not at hand; measured on 2 cores: 32 is 5 % slower, 128 no faster

# Images (n, side, side) -> (n, 1 + c): the log odds of pneumonia, then whatever else the model returns.
Forward = Callable[[Pixels], npt.NDArray[np.float32]]


def score_images(
    model: keras.Model, images: Pixels, cache: ActivationCache | None = None, flip: bool = False, cut: Cut | None = None
) -> npt.NDArray[np.float64]:
    """Return the log odds of pneumonia of each image, not calibrated, shape (n,).

    Args:
        model: a classifier whose output is one logit, the log odds of pneumonia.
        images: grey values 0 to 255, uint8 (n, side, side), side as the model expects.
        cache: holds the activations of the model's frozen part; without it nothing is read or kept.
        flip: average the log odds of each image and of its mirror image.
        cut: the model in parts, if it has been cut already; needs a cache.
    """
    return score_with(partial(_run, model, cache, cut), images, flip)[0]


def score_with(forward: Forward, images: Pixels, flip: bool) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    """Return the log odds of each image (n,), and what else `forward` returns of the image as it is (n, c).

    Args:
        forward: a forward pass in inference mode.
        images: grey values 0 to 255, uint8 (n, side, side).
        flip: average the log odds of each image and of its mirror image.
    """
    outputs = forward(np.concatenate([images, images[..., ::-1]]) if flip else images)
    log_odds = outputs[:, 0].astype(np.float64).reshape(1 + flip, len(images)).mean(axis=0)
    return log_odds, outputs[: len(images), 1:]


def _run(model: keras.Model, cache: ActivationCache | None, cut: Cut | None, images: Pixels) -> npt.NDArray[np.float32]:
    inputs, part, batch_size = images, model, cache.compute.batch_size if cache else BATCH_SIZE
    if cache and (cut := cut or cut_model(model)).frozen:
        inputs, part = cache.read(cut.frozen, images), cut.trainable
    batches = [batch for _, batch in run_batches(part, inputs, batch_size)]
    return np.concatenate([np.empty((0, 1), np.float32), *batches])
