"""Run a training phase: compute what is frozen once, choose the learning rate, then train epoch by epoch."""

import json
from pathlib import Path
from typing import NamedTuple, Protocol

import keras
import pandas as pd
from matplotlib.figure import Figure

from pneumonia.core.dataset import Dataset, Split
from pneumonia.core.files import project_home, sha256_bytes, sha256_file, write_json
from pneumonia.core.params import FitParams
from pneumonia.core.tables import write_table
from pneumonia.models.activations import ActivationCache, fingerprint
from pneumonia.models.classifier import count_parameters, save_model
from pneumonia.models.cut import cut_model, freeze_below
from pneumonia.training.batches import Batches
from pneumonia.training.fit import Logs, describe_best, fit
from pneumonia.training.range_test import choose_learning_rate, draw_range_test, find_suggestion, read_range_test

CODE = ("core", "models", "training")  # folders of code that a training depends on, as in dvc.yaml


class Listener(Protocol):
    """Follows a phase, as `tracking.runs.PhaseRun` does."""

    def log_range_test(self, table: pd.DataFrame, learning_rate: float, figure: Figure) -> None:
        """Take the table of a range test, the learning rate that it suggests, and its figure."""
        ...

    def log_epoch(self, epoch: int, logs: Logs, rates: pd.DataFrame) -> None:
        """Take the metrics of an epoch, numbered from 0, and learning rate and momentum at each of its steps."""
        ...

    def log_best(self, best: Logs) -> None:
        """Take the metrics of the epoch that is kept."""
        ...


class Trained(NamedTuple):
    """What a phase leaves beside the trained classifier.

    Attributes:
        history: a row for each epoch.
        best: metrics of the epoch that is kept, learning rate and number of parameters.
        range_test: table of the range test, empty without one.
    """

    history: pd.DataFrame
    best: dict[str, float]
    range_test: pd.DataFrame

    def describe(self) -> str:
        """Return the outcome in one line."""
        epochs, best = len(self.history), self.best
        kept = f"val_loss {best['val_loss']:.4f}, val_auc {best['val_auc']:.4f}"
        return f"{epochs} epochs, best is epoch {best['epoch']:.0f} with {kept}"

    def write(self, classifier: keras.Model, out: Path, history: Path, metrics: Path, range_test: Path) -> None:
        """Write the classifier to `out`, and the rest to where the other names say."""
        save_model(classifier, out)
        write_table(self.history, history)
        write_table(self.range_test, range_test)
        write_json(self.best, metrics)


def run_phase(
    classifier: keras.Model, from_layer: int | None, dataset: Dataset, params: FitParams, cache: ActivationCache,
    state: Path, listener: Listener, notice: str = "",
) -> Trained:  # fmt: skip
    """Train a classifier's head, and its backbone from `from_layer` on.

    Args:
        classifier: trained in place, after `make_deterministic`.
        from_layer: first trainable layer of the backbone; None freezes it.
        dataset: images of all splits; the test split is not touched.
        params: section of the phase.
        cache: keeps the activations of the frozen part.
        state: folder of `find_state`; a phase that was killed resumes from it.
        listener: follows the phase.
        notice: stands below the figure of a range test.

    Raises:
        InputError: the activations do not fit, or no learning rate is found.
    """
    trainable, train, val = prepare(classifier, from_layer, dataset, params.batch_size, cache)
    learning_rate, table = choose_learning_rate(trainable, train, params, dataset.class_weight)
    _tell_range_test(listener, table, notice)
    history = fit(trainable, train, val, params, learning_rate, dataset.class_weight, state, listener.log_epoch)
    best = describe_best(history, params.monitor)
    listener.log_best(best)
    parameters, trainable = count_parameters(classifier)
    counts = {"learning_rate": learning_rate, "parameters": parameters, "trainable_parameters": trainable}
    return Trained(history, best | counts, table)


def replay_files(
    history: Path, range_test: Path, params: FitParams, notice: str, listener: Listener, dataset: Dataset
) -> None:
    """Tell a listener about a phase whose outputs DVC restored; of its learning rates only the last of each epoch.

    Args:
        history: table of the phase, a row for each epoch.
        range_test: table of the range test, empty without one.
        params: section of the phase.
        notice: as for `run_phase`.
        listener: as for `run_phase`.
        dataset: that the phase trained on.
    """
    _tell_range_test(listener, read_range_test(range_test), notice)
    epochs = pd.read_csv(history)
    steps = -(-len(dataset.train.labels) // params.batch_size)
    for row in epochs.to_dict("records"):
        epoch = int(row.pop("epoch"))
        rates = pd.DataFrame({"learning_rate": row["learning_rate"]}, [epoch * steps])
        listener.log_epoch(epoch - 1, {str(name): float(value) for name, value in row.items()}, rates)
    listener.log_best(describe_best(epochs, params.monitor))


def _tell_range_test(listener: Listener, table: pd.DataFrame, notice: str) -> None:
    if len(table):
        listener.log_range_test(table, find_suggestion(table, "valley"), draw_range_test(table, notice))


def find_state(phase: str, dataset: Path, model: keras.Model, params: FitParams, precision: str) -> Path:
    """Return the folder of a phase's unfinished training: it belongs to exactly this data, model, code and section."""
    package = Path(__file__).parents[1]
    code = [sha256_file(path) for folder in CODE for path in sorted((package / folder).glob("*.py"))]
    key = json.dumps([sha256_file(dataset), fingerprint(model), params.model_dump(), precision, code])
    return project_home() / ".cache" / "training" / f"{phase}-{sha256_bytes(key.encode())[:16]}"


def prepare(
    model: keras.Model, from_layer: int | None, dataset: Dataset, batch_size: int, cache: ActivationCache
) -> tuple[keras.Model, Batches, Batches]:
    """Freeze a classifier below `from_layer`, all of its backbone when None, and run what is frozen once per image.

    Returns:
        The trainable part, and its inputs for the training and the validation images.
    """
    freeze_below(model, from_layer)
    cut = cut_model(model)

    def batches(split: Split) -> Batches:
        x = cache.read(cut.frozen, split.images) if cut.frozen else split.images
        return Batches(x, split.labels, batch_size)

    return cut.trainable, batches(dataset.train), batches(dataset.val)
