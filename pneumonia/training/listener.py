"""Follow a training phase while it runs, or replay it from its files; needs no TensorFlow."""

from pathlib import Path
from typing import Protocol

import pandas as pd
from matplotlib.figure import Figure

from pneumonia.core.dataset import Dataset
from pneumonia.core.params import FitParams
from pneumonia.training.history import Logs, describe_best
from pneumonia.training.suggestions import draw_range_test, find_suggestion, read_range_test


class Listener(Protocol):
    """Follows a phase, as `tracking.phase_run.PhaseRun` does."""

    def log_range_test(self, table: pd.DataFrame, learning_rate: float, figure: Figure) -> None:
        """Receive the table of a range test, the learning rate it suggests, and its figure."""
        ...

    def log_epoch(self, epoch: int, logs: Logs, rates: pd.DataFrame) -> None:
        """Receive an epoch, numbered from 0: its metrics, and a row of `rates` for each step, see `list_rates`."""
        ...

    def log_best(self, best: Logs) -> None:
        """Receive the metrics of the best epoch, whose weights are kept."""
        ...


def tell_range_test(listener: Listener, table: pd.DataFrame, notice: str) -> None:
    """Tell a listener about a range test, if there was one; `notice` stands below its figure."""
    if len(table):
        listener.log_range_test(table, find_suggestion(table, "valley"), draw_range_test(table, notice))


def replay_files(
    history: Path, range_test: Path, params: FitParams, notice: str, listener: Listener, dataset: Dataset
) -> None:
    """Tell a listener about a phase from its output files; only the last learning rate of each epoch is known.

    Args:
        history: CSV of `Trained.history`.
        range_test: CSV of `Trained.range_test`.
        params: section of the phase.
        notice: as for `run_phase`.
        listener: as for `run_phase`.
        dataset: the phase trained on it.
    """
    tell_range_test(listener, read_range_test(range_test), notice)
    epochs = pd.read_csv(history)
    steps = -(-len(dataset.train.labels) // params.batch_size)
    for row in epochs.to_dict("records"):
        epoch = int(row.pop("epoch"))
        rates = pd.DataFrame({"learning_rate": row["learning_rate"]}, [epoch * steps])
        listener.log_epoch(epoch - 1, {str(name): float(value) for name, value in row.items()}, rates)
    listener.log_best(describe_best(epochs, params.monitor))
