"""Batches for `fit`, and everything that is random in an epoch."""

from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from pneumonia.models.activations import Rows


class Batches(keras.utils.PyDataset):
    """Inputs and labels in batches.

    Attributes:
        rows: row numbers of `x`, one per label, in the order of reading; `draw_epoch` draws new ones.
        views: variants of each image in `x`.
    """

    def __init__(self, x: npt.NDArray[Any] | Rows, y: npt.NDArray[Any], batch_size: int) -> None:
        """Keep inputs `x` (n * views, ...), perhaps on disk, and labels `y` (n,); start with the unaltered images."""
        super().__init__()
        self.x, self.y, self.batch_size = x, y.astype(np.float32)[:, None], batch_size
        self.views = len(x) // len(y)
        self.rows = self.views * np.arange(len(y))

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-len(self.y) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return a batch: inputs (b, ...) and labels (b, 1); images gain a channel axis."""
        rows = self.rows[index * self.batch_size : (index + 1) * self.batch_size]
        x = self.x[rows]
        return (x[..., None] if x.ndim == 3 else x), self.y[rows // self.views]


def draw_epoch(model: keras.Model, images: int, views: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Draw all that is random in an epoch from the seed and the epoch's number, so that a resumed run repeats it.

    Args:
        model: the state of its seed generators, such as dropout's, is set.
        images: number of training images.
        views: variants of each image; one of them is drawn.
        seed: of the phase.
        epoch: number from 0.

    Returns:
        Row numbers of the drawn variants, (images,), in the order of training.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(images)
    for variable in model.non_trainable_variables:
        if variable.name == "seed_generator_state":
            variable.assign(rng.integers(0, 2**31, 2).astype(variable.dtype))
    return order if views == 1 else order * views + rng.integers(0, views, images)
