"""Draw views of an image: everything that moves pixels in one interpolation, then brightness and contrast."""

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import map_coordinates

from pneumonia.core.dataset import Pixels
from pneumonia.core.params import AugmentParams

Matrix = npt.NDArray[np.float64]
ASPECT = 4 / 3  # of the widest and the tallest crop, as in Szegedy et al. 2015, arXiv:1409.4842, section 6


def draw_view(image: Pixels, size: int, rng: np.random.Generator, params: AugmentParams) -> Pixels:
    """Return a randomly altered view of an image.

    One bilinear interpolation takes it from its own side to `size`; beyond the edges the image is mirrored.

    Args:
        image: grey values 0 to 255, uint8 (side, side).
        size: side of the view in pixels.
        rng: the only source of randomness.
        params: ranges and probabilities.

    Returns:
        Grey values 0 to 255, uint8 (size, size).
    """
    row, column, scale = _draw_matrix(rng, params) @ _grid(size)
    # From -1 to 1 across the image to pixel indices; the centre of a pixel lies half a pixel inside.
    at = (np.stack([row, column]) / scale + 1) * image.shape[0] / 2 - 0.5
    view = map_coordinates(image, at, np.float32, order=1, mode="mirror").reshape(size, size)
    if rng.random() < params.lighting_probability:
        brightness, contrast, mean = rng.uniform(*params.brightness), rng.uniform(*params.contrast), view.mean()
        view = ((view - mean) * contrast + mean) * brightness
    return np.clip(np.rint(view), 0, 255).astype(np.uint8)


@lru_cache(maxsize=4)
def _grid(size: int) -> Matrix:
    """Return the homogeneous coordinates of all pixels, -1 to 1, shape (3, size * size)."""
    at = (2 * np.arange(size) + 1) / size - 1
    return np.stack([*(axis.ravel() for axis in np.meshgrid(at, at, indexing="ij")), np.ones(size * size)])


def _draw_matrix(rng: np.random.Generator, params: AugmentParams) -> Matrix:
    """Draw the projective matrix (3, 3) that maps a place in the view to its place in the image."""
    flip = params.horizontal_flip and rng.random() < 0.5
    matrix: Any = np.diag([1.0, -1.0 if flip else 1.0, 1.0])
    if rng.random() < params.affine_probability:
        angle = np.deg2rad(rng.uniform(-params.rotation_degrees, params.rotation_degrees))
        cosine, sine = np.array([np.cos(angle), np.sin(angle)]) / rng.uniform(*params.zoom)
        down, right = 2 * rng.uniform(-params.shift, params.shift, 2)
        move = np.array([[cosine, -sine, down], [sine, cosine, right], [0, 0, 1]])
        tilt = np.eye(3)
        tilt[2, :2] = rng.uniform(-params.warp, params.warp, 2)
        matrix = _draw_crop(rng, params.crop) @ move @ tilt @ matrix
    return matrix


def _draw_crop(rng: np.random.Generator, smallest: float) -> Matrix:
    """Draw the matrix (3, 3) of a rectangle inside the image with at least `smallest` of its area, 0 to 1."""
    if smallest == 1:
        return np.eye(3)
    area, aspect = rng.uniform(smallest, 1), np.exp(rng.uniform(-1, 1) * np.log(ASPECT))
    height, width = np.minimum(1, np.sqrt([area / aspect, area * aspect]))
    down, right = rng.uniform(-1, 1, 2) * (1 - np.array([height, width]))
    return np.array([[height, 0, down], [0, width, right], [0, 0, 1]])
