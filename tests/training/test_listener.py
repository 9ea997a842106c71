"""A listener hears of a phase while it runs, or from its files."""

from pathlib import Path
from typing import Any, cast

import pandas as pd
import pytest
from phases import DATASET, FOUND, PARAMS, RANGE_TEST, write_range_test

from pneumonia.core.dataset import Dataset
from pneumonia.training.listener import replay_files


class Log:
    """A listener that writes down what it is told."""

    def __init__(self) -> None:
        self.range_tests: list[float] = []
        self.epochs: list[tuple[int, dict[str, float], dict[int, float]]] = []
        self.best: list[dict[str, float]] = []

    def log_range_test(self, table: pd.DataFrame, learning_rate: float, figure: Any) -> None:
        self.range_tests.append(learning_rate)

    def log_epoch(self, epoch: int, logs: dict[str, float], rates: pd.DataFrame) -> None:
        self.epochs.append((epoch, logs, cast(Any, rates["learning_rate"].to_dict())))

    def log_best(self, best: dict[str, float]) -> None:
        self.best.append(best)


def replay(dataset: Dataset = DATASET, batch_size: int = 4) -> Log:
    log, params = Log(), PARAMS.train.model_copy(update={"batch_size": batch_size})
    replay_files(Path("history.csv"), Path("range.csv"), params, "no clinical meaning", log, dataset)
    return log


def test_a_listener_hears_from_files_what_the_phase_told_but_one_learning_rate_per_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path("history.csv").write_text("epoch,loss,val_loss,learning_rate\n1,0.7,0.8,0.01\n2,0.5,0.6,0.005\n")
    write_range_test(Path("range.csv"), RANGE_TEST)
    log = replay()
    assert [epoch for epoch, _, _ in log.epochs] == [0, 1]
    assert [rates for _, _, rates in log.epochs] == [{2: 0.01}, {4: 0.005}]  # six images are two batches
    assert log.best == [{"epoch": 2, "loss": 0.5, "val_loss": 0.6, "learning_rate": 0.005}]
    assert log.range_tests == [FOUND]


def test_without_a_range_test_the_listener_hears_of_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("history.csv").write_text("epoch,loss,val_loss,learning_rate\n1,0.7,0.8,0.01\n")
    write_range_test(Path("range.csv"))
    assert replay().range_tests == []
