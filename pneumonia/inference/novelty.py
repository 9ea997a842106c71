"""Detect images unlike those a model was trained on, whatever the model predicts for them."""

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
from pneumonia.models.archive import check_archive
from pneumonia.models.cut import find_cut, find_layer, get_backbone

Floats = npt.NDArray[np.floating[Any]]
CELLS = 8  # on each side of the thumbnail: 4 miss negatives, 14 miss more images that are upside down


@dataclass(frozen=True)
class Novelty:
    """The distribution of the features of training images, and the distance beyond which an image is novel.

    Attributes:
        mean: of the features of training images, float32 (d,).
        whitener: maps centred features to uncorrelated ones of variance 1 / d, float32 (d, d).
        threshold: highest score that is not novel.
    """

    mean: npt.NDArray[np.float32]
    whitener: npt.NDArray[np.float32]
    threshold: float

    def score(self, features: Floats) -> npt.NDArray[np.float64]:
        """Return the squared Mahalanobis distance of features (n, d), divided by d: about 1 for a training image."""
        return np.square((features - self.mean.astype(np.float64)) @ self.whitener).sum(axis=1)

    def is_novel(self, scores: Floats) -> npt.NDArray[np.bool_]:
        """Return for each score whether it is above the threshold; NaN counts as above."""
        return ~(scores <= self.threshold)

    def write(self, path: Path) -> None:
        """Write an .npz file; the same numbers give the same bytes."""
        with replacing(path) as beside, ZipFile(beside, "w") as archive:
            for name, value in vars(self).items():  # headers of numpy.savez differ between patches of Python
                content = BytesIO()
                np.save(content, value, allow_pickle=False)
                archive.writestr(ZipInfo(f"{name}.npy"), content.getvalue())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file that `write` wrote.

        Raises:
            InputError: the file is missing, damaged or holds something else.
        """
        try:
            check_archive(path, {f"{field.name}.npy": 1 << 28 for field in fields(cls)})
            with path.open("rb") as file:
                arrays = np.load(file, allow_pickle=False)
                mean, whitener, threshold = (arrays[field.name] for field in fields(cls))
            if (mean.dtype, whitener.dtype, threshold.dtype) != (np.float32, np.float32, np.float64):
                raise TypeError(f"it holds {mean.dtype}, {whitener.dtype} and {threshold.dtype}")
            if threshold.shape or whitener.shape != (*mean.shape, *mean.shape):
                raise TypeError(f"it holds shapes {mean.shape}, {whitener.shape} and {threshold.shape}")
            if not all(np.isfinite(array).all() for array in (mean, whitener, threshold)):
                raise ValueError("it holds a number that is not finite")
            return cls(mean, whitener, float(threshold))
        except Exception as error:  # a damaged archive may raise anything
            raise InputError(
                f"{path} cannot be loaded: {error!r}.",
                expected="mean, whitener and threshold, as stage evaluate writes them",
                remedy="dvc repro --force evaluate",
            ) from error


def expose_channels(model: keras.Model) -> keras.Model:
    """Return a model that computes log odds and the channel means for `join_features` in one forward pass.

    Its output has shape (n, 1 + c): the log odds of pneumonia, then the mean of each channel at the default cut.
    """
    backbone = get_backbone(model)
    both = keras.Model(backbone.input, [find_default_cut(backbone), backbone.output])
    at_cut, x = both(model.get_layer("scale").output, training=False)
    for layer in model.layers[model.layers.index(backbone) + 1 :]:
        x = layer(x)
    return keras.Model(model.input, layers.Concatenate()([x, layers.GlobalAveragePooling2D()(at_cut)]))


def join_features(means: Floats, images: Pixels) -> Floats:
    """Return the features by which `Novelty` judges images, float32 (n, c + CELLS * CELLS / 2).

    Channel means tell what a picture shows, but not where, and hardly distinguish an image from its negative. A
    thumbnail does; it is folded along the middle, so that a mirrored image is not novel. The means come from the
    backbone's default cut, whatever is frozen: the last layers keep only what the decision needs, and at their output
    blank images and negatives look like any other.

    Args:
        means: of each channel at the default cut, shape (n, c).
        images: grey values 0 to 255, uint8 (n, side, side).
    """
    small = [Image.fromarray(image).resize((CELLS, CELLS), Image.Resampling.BOX) for image in images]
    thumbnails = np.array(small, np.float32).reshape(len(images), CELLS, CELLS)
    folded = (thumbnails + thumbnails[..., ::-1])[..., : CELLS // 2] / 2
    return np.concatenate([means, folded.reshape(len(images), CELLS * CELLS // 2)], axis=1)


def find_default_cut(backbone: keras.Model) -> keras.KerasTensor:
    """Return a backbone's output at the cut below its default `from_layer`."""
    return backbone.layers[find_cut(backbone, find_layer(backbone, "auto"))].output
