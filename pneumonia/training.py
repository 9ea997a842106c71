"""Fit a model epoch by epoch so that a killed run goes on where it stopped and ends in the same weights."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd
import tensorflow as tf

from pneumonia.activations import ActivationCache, Rows, fingerprint
from pneumonia.augment import Dataset, Split
from pneumonia.files import project_home, replacing, sha256_bytes, sha256_file, write_json
from pneumonia.model import cut_model, freeze_below
from pneumonia.params import FitParams, Monitor

Logs = dict[str, float]
OnEpoch = Callable[[int, Logs], None]


class F1Score(keras.metrics.F1Score):
    """F1 of the positive class from logits."""

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Count a batch; `y_pred` holds logits (n, 1)."""
        super().update_state(y_true, keras.ops.sigmoid(y_pred), sample_weight)


class Batches(keras.utils.PyDataset):
    """Rows of two arrays in batches, reordered every epoch when they are trained on."""

    def __init__(self, x: npt.NDArray[Any] | Rows, y: npt.NDArray[Any], batch_size: int) -> None:
        """Keep the arrays: `x` (n, ...) may lie on disk; `y` holds labels (n,)."""
        super().__init__()
        self.x, self.y, self.batch_size = x, y.astype(np.float32)[:, None], batch_size
        self.order = np.arange(len(y))

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-len(self.y) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return films (b, ...) and labels (b, 1)."""
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        x = self.x[rows]
        return (x[..., None] if x.ndim == 3 else x), self.y[rows]


def find_best(values: Sequence[float], monitor: Monitor) -> int:
    """Return the number, from 0, of the best of one value per epoch; an epoch that diverged is never the best."""
    gains = -np.array(values) if monitor == "val_loss" else np.array(values)
    return int(np.argmax(np.nan_to_num(gains, nan=-np.inf)))


def describe_best(history: pd.DataFrame, monitor: Monitor) -> dict[str, float]:
    """Return the row of the epoch that was kept."""
    row = history.iloc[find_best(history[monitor].to_list(), monitor)]
    return {"epoch": int(row["epoch"])} | {str(name): float(row[name]) for name in history.columns if name != "epoch"}


class _Checkpoint(keras.callbacks.Callback):
    """Keep on disk all that an epoch leaves behind, and decide from it which epoch is best and when to stop.

    history.json is the commit point: weights it does not name do not count.
    """

    def __init__(
        self, trained: keras.Model, folder: Path, batches: Batches, params: FitParams, on_epoch: OnEpoch
    ) -> None:
        super().__init__()
        self.trained, self.folder, self.batches = trained, folder, batches
        self.settings, self.on_epoch = params, on_epoch
        self.history: list[Logs] = []
        if (folder / "history.json").exists():
            self.history = json.loads((folder / "history.json").read_text())

    @property
    def best(self) -> int:
        return find_best([logs[self.settings.monitor] for logs in self.history], self.settings.monitor)

    @property
    def finished(self) -> bool:
        waited = len(self.history) - 1 - self.best if self.history else 0
        return len(self.history) >= self.settings.epochs or waited >= (self.settings.patience or np.inf)

    def weights(self, epoch: int) -> Path:
        return self.folder / f"epoch{epoch:04d}.weights.h5"

    def restore(self, epoch: int) -> None:
        self.trained.optimizer.build(self.trained.trainable_variables)
        self.trained.load_weights(self.weights(epoch))

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        # Everything random in an epoch follows from seed and epoch, so a resumed run draws what an unbroken one draws.
        rng = np.random.default_rng([self.settings.seed, epoch])
        self.batches.order = rng.permutation(len(self.batches.y))
        for variable in self.trained.non_trainable_variables:
            if variable.name == "seed_generator_state":
                variable.assign(rng.integers(0, 2**31, 2).astype(variable.dtype))

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.history.append({name: float(value) for name, value in (logs or {}).items()})
        with replacing(self.weights(epoch)) as beside:
            self.trained.save_weights(beside)
        write_json(self.history, self.folder / "history.json")
        for path in set(self.folder.glob("*.weights.h5")) - {self.weights(epoch), self.weights(self.best)}:
            path.unlink()
        self.on_epoch(epoch, self.history[-1])
        self.trained.stop_training = self.finished


def fit(
    model: keras.Model,
    train: Batches,
    val: Batches,
    params: FitParams,
    class_weight: dict[int, float],
    state: Path,
    on_epoch: OnEpoch = lambda epoch, logs: None,
    verbose: Literal[0, 1, 2] = 2,
) -> pd.DataFrame:
    """Train a model that ends in one logit and leave it with the weights of its best epoch.

    Args:
        model: compiled here: Adam, binary cross-entropy; AUC, F1 and accuracy are measured each epoch.
        train: training films; reordered each epoch.
        val: validation films.
        params: epochs, learning rate, monitor, patience, seed.
        class_weight: weight of each label in the loss.
        state: folder in which finished epochs are kept; when it already holds some, training goes on after them.
        on_epoch: called after each epoch that is trained here with its number from 0 and its metrics.
        verbose: as in `keras.Model.fit`.

    Returns:
        One row per epoch, the column `epoch` from 1.
    """
    model.compile(
        keras.optimizers.Adam(params.learning_rate),
        keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.AUC(name="auc", from_logits=True), F1Score("macro", threshold=0.5, name="f1"),
                 keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.0)],
        steps_per_execution=8,  # the same bits; halves an epoch of the head, more gains nothing
        jit_compile=False,  # pyright: ignore[reportArgumentType]
    )  # fmt: skip
    checkpoint = _Checkpoint(model, state, train, params, on_epoch)
    done = len(checkpoint.history)
    if done:
        print(f"Going on after epoch {done}.")
        checkpoint.restore(done - 1)
        on_epoch(done - 1, checkpoint.history[-1])  # it may have been killed before this epoch was told
    if not checkpoint.finished:
        model.fit(
            train, epochs=params.epochs, initial_epoch=done, validation_data=val, class_weight=class_weight,
            callbacks=[checkpoint], shuffle=False, verbose=verbose,  # pyright: ignore[reportArgumentType]
        )  # fmt: skip
    checkpoint.restore(checkpoint.best)
    return pd.DataFrame(checkpoint.history).rename_axis("epoch").reset_index().assign(epoch=lambda t: t["epoch"] + 1)


def make_deterministic(seed: int) -> None:
    """Seed everything and make TensorFlow choose algorithms that give the same bytes each time."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def find_state(phase: str, dataset: Path, model: keras.Model, params: FitParams, precision: str) -> Path:
    """Return the folder of a phase's unfinished training: it belongs to exactly this data, model, code and section."""
    code = [sha256_file(path) for path in sorted(Path(__file__).parent.glob("*.py"))]
    key = json.dumps([sha256_file(dataset), fingerprint(model), params.model_dump(), precision, code])
    return project_home() / ".cache" / "training" / f"{phase}-{sha256_bytes(key.encode())[:16]}"


def train_from(
    model: keras.Model,
    from_layer: int | None,
    dataset: Dataset,
    params: FitParams,
    cache: ActivationCache,
    state: Path,
    on_epoch: OnEpoch,
) -> pd.DataFrame:
    """Train a classifier's head, and its backbone from `from_layer` on; what is frozen runs once per film.

    Returns:
        The history, as `fit` does.
    """
    freeze_below(model, from_layer)
    cut = cut_model(model)

    def batches(split: Split) -> Batches:
        x = cache.read(cut.prefixes, split.images) if cut.prefixes else split.images
        return Batches(x, split.labels, params.batch_size)

    return fit(cut.tail, batches(dataset.train), batches(dataset.val), params, dataset.class_weight, state, on_epoch)
