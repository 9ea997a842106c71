"""Cache the activations of the frozen backbone: a pure function of image and weights is computed once per image."""

import errno
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tqdm import tqdm

from pneumonia.core.dataset import Pixels
from pneumonia.core.errors import InputError
from pneumonia.core.files import project_home, sha256_bytes
from pneumonia.core.params import CacheParams, ComputeParams
from pneumonia.core.runtime import keep_memory, map_threads, use_precision
from pneumonia.models.row_store import RowStore

# Where a Keras configuration names layers.
_NAMING = ("name", "keras_history", "input_layers", "output_layers")


@dataclass(frozen=True)
class Rows:
    """Rows of an array in another order, read on demand.

    Attributes:
        array: any array (n, ...), perhaps mapped from disk.
        order: numbers of its rows, (m,).
    """

    array: npt.NDArray[Any]
    order: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.order)

    def __getitem__(self, rows: Any) -> npt.NDArray[Any]:
        """Return the rows at a slice, a number or an array of numbers."""
        return self.array[self.order[rows]]


def fingerprint(model: keras.Model) -> str:
    """Return the SHA-256 of a model's structure and weights; the names of its layers do not count."""
    names = {layer.name for layer in model._flatten_layers()}
    structure = _number_layers(model.get_config(), dict.fromkeys(names, -1), iter(range(len(names))))
    digests = [sha256_bytes(np.ascontiguousarray(weight).tobytes()) for weight in model.get_weights()]
    return sha256_bytes(json.dumps([structure, digests], sort_keys=True, default=str).encode())


def _number_layers(config: Any, numbers: dict[str, int], fresh: Iterator[int], naming: bool = False) -> Any:
    """Number layer names in order of appearance; drop settings that do not affect the output."""
    if isinstance(config, dict):
        kept = {key: value for key, value in config.items() if key not in ("trainable", "shared_object_id")}
        return {key: _number_layers(value, numbers, fresh, key in _NAMING) for key, value in kept.items()}
    if isinstance(config, list | tuple):
        return [_number_layers(value, numbers, fresh, naming) for value in config]
    if naming and config in numbers:
        if numbers[config] < 0:
            numbers[config] = next(fresh)
        return numbers[config]
    return config


@dataclass(frozen=True)
class ActivationCache:
    """Activations in .cache/activations, keyed by frozen model, precision, batch size and the image's pixels.

    Every stage and experiment of a project shares it. Two processes that need the same activations compute them once;
    an interrupted computation resumes.

    Attributes:
        compute: precision, which creating a cache sets for all of TensorFlow, and batch size.
        limits: largest size on disk.
    """

    compute: ComputeParams
    limits: CacheParams

    def __post_init__(self) -> None:
        """Set the precision for this process, and keep its memory: what uses a cache computes for long."""
        keep_memory()
        use_precision(self.compute.precision)

    def read(self, frozen: Sequence[keras.Model], images: Pixels) -> Rows:
        """Return the output of the last of `frozen` for each image, computing what is not on disk yet.

        Args:
            frozen: `Cut.frozen`, at least one model.
            images: grey values 0 to 255, uint8 (n, side, side).

        Returns:
            Float32 rows (n, ...) in the order of the images, mapped from disk.

        Raises:
            InputError: the activations take more than cache.max_gb.
        """
        keys = map_threads(lambda image: hashlib.sha256(image).digest(), np.ascontiguousarray(images), desc="hash")
        limit = self.limits.max_gb * 1e9
        needed = len(set(keys)) * _count_bytes(frozen)
        if needed > limit:
            raise InputError(
                f"The activations of {len(set(keys)):,} images take {needed / 1e9:.3g} GB.",
                expected=f"at most cache.max_gb, {self.limits.max_gb:g} GB",
                remedy="raise cache.max_gb or, when fine-tuning, set finetune.from_layer higher",
            )
        return self._read(frozen, Rows(images, np.arange(len(images))), keys, limit)

    def _read(self, frozen: Sequence[keras.Model], images: Rows, keys: Sequence[bytes], limit: float) -> Rows:
        # Another version of TensorFlow may round differently, and so may another batch size where AVX-512 is missing.
        compute = self.compute
        described = " ".join([tf.__version__, compute.precision, str(compute.batch_size), *map(fingerprint, frozen)])
        folder = project_home() / ".cache" / "activations" / sha256_bytes(described.encode())[:32]
        store = RowStore(folder, frozen[-1].output_shape[1:])
        with store.locked():
            rows = store.find(keys)
            if (rows < 0).any():
                self._compute(store, frozen, images, keys, rows, limit)
                rows = store.find(keys)
            if (rows < 0).any():
                raise OSError(errno.EIO, "Activations cannot be read back as written", str(folder))
            return Rows(store.open(), rows)

    def _compute(
        self, store: RowStore, frozen: Sequence[keras.Model], images: Rows, keys: Sequence[bytes],
        rows: npt.NDArray[np.int64], limit: float,
    ) -> None:  # fmt: skip
        """Append what the store does not know yet, batch by batch."""
        *below, last = frozen
        unknown = {key: image for image, key in enumerate(keys) if rows[image] < 0}
        wanted = len(set(keys))
        if store.make_room(len(unknown), wanted, limit - wanted * _count_bytes(below)):
            unknown = {key: image for image, key in enumerate(keys)}
        missing = Rows(images.array, images.order[list(unknown.values())])
        rest = limit - wanted * store.row_bytes
        inputs = self._read(below, missing, list(unknown), rest) if below else missing
        for start, batch in run_batches(last, inputs, self.compute.batch_size):
            store.append(list(unknown)[start : start + len(batch)], batch)


def _count_bytes(frozen: Sequence[keras.Model]) -> int:
    """Return the bytes that the activations of one image take."""
    return sum(4 * prod(part.output_shape[1:]) for part in frozen)


def run_batches(model: keras.Model, inputs: Rows | npt.NDArray[Any], batch_size: int) -> Iterator[tuple[int, Any]]:
    """Yield the first row and the output of each batch, in order, with a progress bar.

    Args:
        model: takes images (n, side, side, 1) or activations.
        inputs: images (n, side, side), grey values 0 to 255, or activations.
        batch_size: rows at a time. The last batch is padded to this size, so that every row is computed the same way.
    """
    run: Callable[..., Any] = tf.function(lambda batch: model(batch, training=False))
    with tqdm(total=len(inputs), desc=model.name, unit=" images", disable=None) as progress:
        for start in range(0, len(inputs), batch_size):
            rows = np.arange(start, min(start + batch_size, len(inputs)))
            batch = inputs[np.resize(rows, batch_size)].astype(np.float32)
            batch = batch[..., None] if batch.ndim == 3 else batch
            yield start, run(tf.constant(batch)).numpy()[: len(rows)]
            progress.update(len(rows))
