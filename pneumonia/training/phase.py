"""Run a training phase: compute the frozen part once, choose the learning rate, then train epoch by epoch."""

from pathlib import Path
from typing import NamedTuple

import keras
import pandas as pd

from pneumonia.core.dataset import Dataset, Split
from pneumonia.core.files import write_json
from pneumonia.core.params import FinetuneParams, FitParams
from pneumonia.core.tables import write_table
from pneumonia.models.activations import ActivationCache
from pneumonia.models.classifier import count_parameters, save_model
from pneumonia.models.cut import Cut, cut_model, freeze_below
from pneumonia.training.batches import Batches
from pneumonia.training.fit import fit
from pneumonia.training.history import describe_best
from pneumonia.training.listener import Listener, tell_range_test
from pneumonia.training.range_test import choose_learning_rate


class Trained(NamedTuple):
    """The results of a phase besides the trained classifier.

    Attributes:
        history: a row per epoch: epoch (from 1), learning_rate, loss, auc, f1, accuracy and the same of validation.
        best: the best epoch's row, the learning rate of the phase, and the number of parameters, all and trainable.
        range_test: table of the range test; no rows without one.
    """

    history: pd.DataFrame
    best: dict[str, float]
    range_test: pd.DataFrame

    def describe(self) -> str:
        """Return a summary in one line."""
        epochs, best = len(self.history), self.best
        kept = f"val_loss {best['val_loss']:.4f}, val_auc {best['val_auc']:.4f}"
        return f"{epochs} epochs, best is epoch {best['epoch']:.0f} with {kept}"

    def write(self, classifier: keras.Model, out: Path, history: Path, metrics: Path, range_test: Path) -> None:
        """Write the classifier to `out` as .keras, history and range test as CSV, the best epoch as JSON."""
        save_model(classifier, out)
        write_table(self.history, history)
        write_table(self.range_test, range_test)
        write_json(self.best, metrics)


def run_phase(
    classifier: keras.Model, from_layer: int | None, dataset: Dataset, params: FitParams, cache: ActivationCache,
    state: Path, listener: Listener, notice: str = "", cut: Cut | None = None,
) -> Trained:  # fmt: skip
    """Train a classifier's head, and its backbone from `from_layer` on.

    Args:
        classifier: trained in place; call `make_deterministic` before building or loading it.
        from_layer: index of the backbone's first trainable layer; None freezes the backbone.
        dataset: train and val are used, test is not.
        params: section of the phase.
        cache: of the frozen part's activations.
        state: folder of `find_state`, held; an interrupted phase resumes from it.
        listener: follows the phase.
        notice: line below the figure of a range test.
        cut: the classifier as `cut_for_phase` cut it before; then it is not compiled and traced again, see `fit`.

    Raises:
        InputError: the activations exceed cache.max_gb, or a range test finds no learning rate.
    """
    trainable, train, val = prepare(classifier, from_layer, dataset, params, cache, cut)
    learning_rate, table = choose_learning_rate(trainable, train, params, dataset.class_weight)
    tell_range_test(listener, table, notice)
    history = fit(trainable, train, val, params, learning_rate, dataset.class_weight, state, listener.log_epoch)
    best = describe_best(history, params.monitor)
    listener.log_best(best)
    counts = dict(zip(("parameters", "trainable_parameters"), count_parameters(classifier), strict=True))
    return Trained(history, best | {"learning_rate": learning_rate} | counts, table)


def cut_for_phase(model: keras.Model, from_layer: int | None, params: FitParams) -> Cut:
    """Freeze a classifier's backbone below `from_layer`, all of it when None, and cut it, see `cut_model`."""
    freeze_below(model, from_layer)
    return cut_model(model, params.batch_norm if isinstance(params, FinetuneParams) else "frozen")


def prepare(
    model: keras.Model, from_layer: int | None, dataset: Dataset, params: FitParams, cache: ActivationCache,
    cut: Cut | None = None,
) -> tuple[keras.Model, Batches, Batches]:  # fmt: skip
    """Cut a classifier and compute the activations of its frozen part.

    Args: as of `run_phase`.

    Returns:
        The trainable part, and the batches it trains and validates on.
    """
    freeze_below(model, from_layer)
    cut = cut or cut_for_phase(model, from_layer, params)

    def batches(split: Split) -> Batches:
        x = cache.read(cut.frozen, split.images) if cut.frozen else split.images
        return Batches(x, split.labels, params.batch_size)

    return cut.trainable, batches(dataset.train), batches(dataset.val)
