"""Say when an image does not look like the films a model was trained on, whatever the model says of it."""

from dataclasses import dataclass, fields, replace
from io import BytesIO
from math import floor
from pathlib import Path
from typing import Any, Self
from zipfile import ZipFile, ZipInfo

import keras
import numpy as np
import numpy.typing as npt
from keras import layers
from PIL import Image
from sklearn.covariance import LedoitWolf
from sklearn.preprocessing import StandardScaler

from pneumonia.activations import ActivationCache, run_batches
from pneumonia.errors import InputError
from pneumonia.files import replacing
from pneumonia.images import Pixels
from pneumonia.model import find_cut, find_layer, get_backbone
from pneumonia.predict import BATCH_SIZE

Floats = npt.NDArray[np.floating[Any]]
SHARE = 0.01  # of films like those of validation may be called novel
CELLS = 8  # along each side of the thumbnail: with 4 negatives are missed, with 14 more films upside down


@dataclass(frozen=True)
class Novelty:
    """Where the features of training films lie, and how far from there an image is novel.

    Attributes:
        mean: of the features of training films, float32 (d,).
        whitener: takes features less their mean to uncorrelated ones of variance 1 / d, float32 (d, d).
        threshold: highest score that is not novel.
    """

    mean: npt.NDArray[np.float32]
    whitener: npt.NDArray[np.float32]
    threshold: float

    def score(self, features: Floats) -> npt.NDArray[np.float64]:
        """Return the squared Mahalanobis distance of features (n, d), over d: about 1 for a training film."""
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


def fit_novelty(train: Floats, val: Floats) -> Novelty:
    """Fit what is novel on features of training and validation films, both (n, d).

    The score is the Mahalanobis distance (Lee et al. 2018, arXiv:1807.03888, but with one mean: a mean of each class
    sees no more) under the covariance of Ledoit & Wolf 2004, doi:10.1016/S0047-259X(03)00096-4, which has an inverse
    however few films there are.

    The threshold is the floor(SHARE (n + 1))-th highest score of n validation films, so that a film exchangeable with
    them lies beyond it with a probability of at most SHARE (Bates et al. 2023, arXiv:2104.08279: conformal p-values).
    Fewer than 1 / SHARE - 1 films cannot promise that: then it is their highest score, the probability 1 / (n + 1).
    """
    scaler: Any = StandardScaler().fit(train.astype(np.float64))
    spread = LedoitWolf(store_precision=False, assume_centered=True).fit(scaler.transform(train)).covariance_
    whitener = np.linalg.inv(np.linalg.cholesky(spread)).T / np.sqrt(len(spread)) / scaler.scale_[:, None]
    found = Novelty(scaler.mean_.astype(np.float32), whitener.astype(np.float32), np.inf)
    beyond = max(1, floor(SHARE * (len(val) + 1)))
    return replace(found, threshold=float(np.sort(found.score(val))[-beyond]))


def gather_features(model: keras.Model, images: Pixels, cache: ActivationCache | None = None) -> Floats:
    """Return the features of films, see `join_features`.

    Args:
        model: a classifier.
        images: grey values 0 to 255, uint8 (n, side, side), side as the model expects.
        cache: what it keeps of the films is used, and added to, where all below the cut is frozen.
    """
    backbone = get_backbone(model)
    x = keras.Model(backbone.input, _find_cut(backbone))(model.get_layer("scale").output, training=False)
    stem, inputs = keras.Model(model.input, x), layers.Input(x.shape[1:])
    pool = keras.Model(inputs, layers.GlobalAveragePooling2D()(inputs), name="novelty")
    batch_size = cache.compute.batch_size if cache else BATCH_SIZE
    if cache and not stem.trainable_weights:
        batches = run_batches(pool, cache.read([stem], images), batch_size)
    else:
        batches = run_batches(keras.Model(model.input, pool(x), name="novelty"), images, batch_size)
    return join_features(np.concatenate([np.empty((0, x.shape[-1]), np.float32), *(b for _, b in batches)]), images)


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

    The means tell what is in a picture, not where it is and hardly a film from its negative; a thumbnail does. It is
    folded along the middle: a mirrored film is not novel. The means are taken at the backbone's default cut, whatever
    is frozen: past its last layers, which keep what the decision needs, blank images and negatives are like films.

    Args:
        means: of each channel there, see `cut_model`, shape (n, c).
        images: the films, uint8 (n, side, side).
    """
    small = [Image.fromarray(image).resize((CELLS, CELLS), Image.Resampling.BOX) for image in images]
    thumbnails = np.array(small, np.float32).reshape(len(images), CELLS, CELLS)
    folded = (thumbnails + thumbnails[..., ::-1])[..., : CELLS // 2] / 2
    return np.concatenate([means, folded.reshape(len(images), CELLS * CELLS // 2)], axis=1)


def _find_cut(backbone: keras.Model) -> keras.KerasTensor:
    return backbone.layers[find_cut(backbone, find_layer(backbone, "auto"))].output
