"""Fit a model epoch by epoch; an interrupted run resumes after its last whole epoch and ends in the same weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from tqdm import tqdm

from pneumonia.core.files import replacing, write_json
from pneumonia.core.params import FitParams
from pneumonia.training.batches import Batches, draw_epoch
from pneumonia.training.history import Logs, find_best
from pneumonia.training.schedules import build_optimizer, list_rates

OnEpoch = Callable[[int, Logs, pd.DataFrame], None]


class F1Score(keras.metrics.F1Score):
    """F1 score from logits; 0 to 1."""

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add a batch; labels `y_true` and logits `y_pred` are (n, 1)."""
        super().update_state(y_true, keras.ops.sigmoid(y_pred), sample_weight)


class _Checkpoint(keras.callbacks.Callback):
    """Save the state after each epoch, and decide from it which epoch is best and when to stop.

    history.json is the commit point: weights of epochs that it does not list do not count.
    """

    def __init__(
        self, trained: keras.Model, folder: Path, batches: Batches, params: FitParams, on_epoch: OnEpoch
    ) -> None:
        super().__init__()
        self.trained, self.folder, self.batches = trained, folder, batches
        self.settings, self.on_epoch = params, on_epoch
        self.history: list[Logs] = []
        self.progress = tqdm(total=params.epochs, desc=folder.name.partition("-")[0], unit=" epochs", disable=None)
        if (folder / "history.json").exists():
            self.history = json.loads((folder / "history.json").read_text())
        if self.history and not all(self.weights(epoch).exists() for epoch in (len(self.history) - 1, self.best)):
            self.history = []  # the folder was being removed when its process was killed

    @property
    def best(self) -> int:
        return find_best([logs[self.settings.monitor] for logs in self.history], self.settings.monitor)

    @property
    def finished(self) -> bool:
        if not self.history:
            return False
        waited, diverged = len(self.history) - 1 - self.best, np.isnan(self.history[-1]["loss"])
        return diverged or len(self.history) >= self.settings.epochs or waited >= (self.settings.patience or np.inf)

    def weights(self, epoch: int) -> Path:
        return self.folder / f"epoch{epoch:04d}.npz"

    def variables(self) -> list[Any]:
        return [*self.trained.weights, *self.trained.optimizer.variables]

    def rates(self, epoch: int) -> pd.DataFrame:
        steps = len(self.batches)
        return list_rates(self.trained.optimizer, range(epoch * steps, (epoch + 1) * steps))

    def tell(self, epoch: int) -> None:
        self.on_epoch(epoch, self.history[epoch], self.rates(epoch))

    def restore(self, epoch: int) -> None:
        self.trained.optimizer.build(self.trained.trainable_variables)
        with np.load(self.weights(epoch)) as saved:
            for variable, value in zip(self.variables(), saved.values(), strict=True):
                variable.assign(value)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        images, views = len(self.batches.y), self.batches.views
        self.batches.rows = draw_epoch(self.trained, images, views, self.settings.seed, epoch)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        rate = self.rates(epoch)["learning_rate"].iloc[-1]
        self.history.append({name: float(value) for name, value in (logs or {}).items()} | {"learning_rate": rate})
        with replacing(self.weights(epoch)) as beside:  # NumPy says so if the disk is full, HDF5 does not
            np.savez(beside, *(variable.numpy() for variable in self.variables()))
        write_json(self.history, self.folder / "history.json")
        for path in set(self.folder.glob("epoch*.npz")) - {self.weights(epoch), self.weights(self.best)}:
            path.unlink()
        self.tell(epoch)
        self.progress.update(len(self.history) - self.progress.n)
        self.trained.stop_training = self.finished


def build_loss(params: FitParams) -> keras.losses.Loss:
    """Build the loss of a model that returns one logit: binary cross-entropy, of smoothed labels if `params` say so."""
    return keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=params.label_smoothing)


def compile_classifier(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, loss: keras.losses.Loss, steps_per_execution: int = 1
) -> None:
    """Compile a model that returns one logit; metrics AUC, F1 and accuracy, 0 to 1."""
    optimizer.build(model.trainable_variables)
    model.compile(
        optimizer,
        loss,
        metrics=[keras.metrics.AUC(name="auc", from_logits=True), F1Score("macro", threshold=0.5, name="f1"),
                 keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.0)],
        steps_per_execution=steps_per_execution,
        jit_compile=False,  # pyright: ignore[reportArgumentType]
    )  # fmt: skip
    # Variables that the first training step creates cost a second trace of it: 10 s for DenseNet-121.
    model.compute_metrics(None, np.zeros((1, 1), np.float32), np.zeros((1, 1), np.float32))
    model.reset_metrics()


def fit(
    model: keras.Model,
    train: Batches,
    val: Batches,
    params: FitParams,
    learning_rate: float,
    class_weight: dict[int, float],
    state: Path,
    on_epoch: OnEpoch = lambda epoch, logs, rates: None,
) -> pd.DataFrame:
    """Train a model that returns one logit; it ends with the weights of its best epoch.

    Args:
        model: takes what `train` yields; compiled here, see `compile_classifier` and `build_optimizer`. What an earlier
            call compiled for the same schedule is reset instead: tracing takes seconds.
        train: training images or activations; reordered each epoch.
        val: validation images or activations.
        params: epochs, schedule, monitor, patience, label_smoothing, ema_momentum, seed.
        learning_rate: of Adam, the highest of the schedule.
        class_weight: weight of each label, 0 and 1, in the training loss.
        state: folder for the state after each epoch. When it holds epochs, training resumes after them.
        on_epoch: called after each epoch trained here with its number from 0, its metrics, and the learning rate and
            momentum of each of its steps, see `list_rates`. On resuming it is called for the last saved epoch again.

    Returns:
        A row per epoch: `epoch` from 1, `learning_rate` of the epoch's last step, and the metrics. A loss that is not a
        number ends the training.
    """
    _compile(model, params, learning_rate, len(train))
    checkpoint = _Checkpoint(model, state, train, params, on_epoch)
    done = len(checkpoint.history)
    if done:
        print(f"Resuming after epoch {done}.")
        checkpoint.restore(done - 1)
        checkpoint.tell(done - 1)  # the interrupted run may not have told it
    if not checkpoint.finished:
        # Validation sees the averaged weights, training goes on with the others.
        averaging = [keras.callbacks.SwapEMAWeights()] if params.ema_momentum else []
        model.fit(
            train, epochs=params.epochs, initial_epoch=done, validation_data=val, class_weight=class_weight,
            callbacks=[*averaging, checkpoint], shuffle=False, verbose=0,  # pyright: ignore[reportArgumentType]
        )  # fmt: skip
    checkpoint.progress.close()
    checkpoint.restore(checkpoint.best)
    model.optimizer.finalize_variable_values(model.trainable_variables)  # the averaged ones, if there are any
    return pd.DataFrame(checkpoint.history).rename_axis("epoch").reset_index().assign(epoch=lambda t: t["epoch"] + 1)


def _compile(model: keras.Model, params: FitParams, learning_rate: float, steps: int) -> None:
    """Compile a model for a schedule, or set its optimizer back if it is compiled for exactly this one."""
    varied = (params.epochs, params.cycle_epochs, params.base_share, steps) if params.schedule != "constant" else ()
    schedule = (learning_rate, params.schedule, params.label_smoothing, params.ema_momentum, *varied)
    if model.compiled and getattr(model.optimizer, "made_for", None) == schedule:
        for variable in model.optimizer.variables:
            if variable is not model.optimizer._learning_rate:  # all others count from 0
                variable.assign(keras.ops.zeros_like(variable))
        return
    optimizer: Any = build_optimizer(params, learning_rate, steps)
    optimizer.made_for = schedule
    # Same bits as one step per execution; halves the time of a head's epoch, and more gains nothing.
    compile_classifier(model, optimizer, build_loss(params), steps_per_execution=8)


def make_deterministic(seed: int) -> None:
    """Seed Python, NumPy and Keras, and let TensorFlow use deterministic algorithms only."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
