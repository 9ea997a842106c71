"""Say when an image does not look like the images a model was trained on, whatever the model says of it."""

from dataclasses import dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import Any, Self
from zipfile import ZipFile, ZipInfo

import keras
import numpy as np
import numpy.typing as npt
from keras import layers
from PIL import Image

from pneumonia.core.dataset import Pixels
from pneumonia.core.errors import InputError
from pneumonia.core.files import replacing
from pneumonia.models.cut import find_cut, find_layer, get_backbone

Floats = npt.NDArray[np.floating[Any]]
CELLS = 8  # along each side of the thumbnail: with 4 negatives are missed, with 14 more images upside down


@dataclass(frozen=True)
class Novelty:
    """Where the features of training images lie, and how far from there an image is novel.

    Attributes:
        mean: of the features of training images, float32 (d,).
        whitener: takes features less their mean to uncorrelated ones of variance 1 / d, float32 (d, d).
        threshold: highest score that is not novel.
    """

    mean: npt.NDArray[np.float32]
    whitener: npt.NDArray[np.float32]
    threshold: float

    def score(self, features: Floats) -> npt.NDArray[np.float64]:
        """Return the squared Mahalanobis distance of features (n, d), over d: about 1 for a training image."""
        return np.square((features - self.mean.astype(np.float64)) @ self.whitener).sum(axis=1)

    def is_novel(self, scores: Floats) -> npt.NDArray[np.bool_]:
        """Return which scores are beyond the threshold; one that is no number counts as such."""
        return ~(scores <= self.threshold)

    def write(self, path: Path) -> None:
        """Write an .npz file: same numbers, same bytes."""
        with replacing(path) as beside, ZipFile(beside, "w") as archive:
            for name, value in vars(self).items():  # headers of numpy.savez differ between patches of Python
                content = BytesIO()
                np.save(content, value, allow_pickle=False)
                archive.writestr(ZipInfo(f"{name}.npy"), content.getvalue())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote.

        Raises:
            InputError: the file is missing, damaged or holds something else.
        """
        try:
            with path.open("rb") as file:
                arrays = np.load(file, allow_pickle=False)
                mean, whitener, threshold = (arrays[field.name] for field in fields(cls))
            if (mean.dtype, whitener.dtype, threshold.dtype) != (np.float32, np.float32, np.float64):
                raise TypeError(f"it holds {mean.dtype}, {whitener.dtype} and {threshold.dtype}")
            if threshold.shape or whitener.shape != (*mean.shape, *mean.shape):
                raise TypeError(f"it holds shapes {mean.shape}, {whitener.shape} and {threshold.shape}")
            return cls(mean, whitener, float(threshold))
        except Exception as error:  # a damaged archive may raise anything
            raise InputError(
                f"{path} cannot be loaded: {error!r}.",
                expected="mean, whitener and threshold, as stage evaluate writes them",
                remedy="dvc repro --force evaluate",
            ) from error


def expose_channels(model: keras.Model) -> keras.Model:
    """Return a model that says in one pass what a classifier does, and the means that `join_features` takes.

    Its output is (n, 1 + c): the log odds of pneumonia, then the mean of each channel.
    """
    backbone = get_backbone(model)
    both = keras.Model(backbone.input, [_find_cut(backbone), backbone.output])
    at_cut, x = both(model.get_layer("scale").output, training=False)
    for layer in model.layers[model.layers.index(backbone) + 1 :]:
        x = layer(x)
    return keras.Model(model.input, layers.Concatenate()([x, layers.GlobalAveragePooling2D()(at_cut)]))


def join_features(means: Floats, images: Pixels) -> Floats:
    """Return what `Novelty` judges images by, float32 (n, c + CELLS * CELLS / 2).

    The means tell what is in a picture, not where it is and hardly an image from its negative; a thumbnail does. It is
    folded along the middle: a mirrored image is not novel. The means are taken at the backbone's default cut, whatever
    is frozen: past its last layers, which keep what the decision needs, blank images and negatives are like images.

    Args:
        means: of each channel there, see `cut_model`, shape (n, c).
        images: the images, uint8 (n, side, side).
    """
    small = [Image.fromarray(image).resize((CELLS, CELLS), Image.Resampling.BOX) for image in images]
    thumbnails = np.array(small, np.float32).reshape(len(images), CELLS, CELLS)
    folded = (thumbnails + thumbnails[..., ::-1])[..., : CELLS // 2] / 2
    return np.concatenate([means, folded.reshape(len(images), CELLS * CELLS // 2)], axis=1)


def _find_cut(backbone: keras.Model) -> keras.KerasTensor:
    return backbone.layers[find_cut(backbone, find_layer(backbone, "auto"))].output
