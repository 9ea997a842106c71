"""Images in batches, and all that is random in an epoch."""

from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from pneumonia.models.activations import Rows


class Batches(keras.utils.PyDataset):
    """Rows of two arrays in batches; `rows` says which of `x` and in which order, drawn every epoch to train on."""

    def __init__(self, x: npt.NDArray[Any] | Rows, y: npt.NDArray[Any], batch_size: int) -> None:
        """Keep the arrays: `x` (n * views, ...) may lie on disk; `y` holds labels (n,)."""
        super().__init__()
        self.x, self.y, self.batch_size = x, y.astype(np.float32)[:, None], batch_size
        self.views = len(x) // len(y)
        self.rows = self.views * np.arange(len(y))

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-len(self.y) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return images (b, ...) and labels (b, 1)."""
        rows = self.rows[index * self.batch_size : (index + 1) * self.batch_size]
        x = self.x[rows]
        return (x[..., None] if x.ndim == 3 else x), self.y[rows // self.views]


def draw_epoch(model: keras.Model, images: int, views: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Draw all that is random in an epoch; a resumed run draws what an unbroken one does.

    Args:
        model: the state of its seed generators is drawn.
        images: number of training images.
        views: variants of each, of which one is drawn.
        seed: of the phase.
        epoch: number from 0.

    Returns:
        Rows of the images' variants (images,) in the order in which they are trained on.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(images)
    for variable in model.non_trainable_variables:
        if variable.name == "seed_generator_state":
            variable.assign(rng.integers(0, 2**31, 2).astype(variable.dtype))
    return order if views == 1 else order * views + rng.integers(0, views, images)
