"""Inputs of a training phase and what it tells MLflow, without training anything."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from projects import ROOT

from pneumonia.core.dataset import Dataset, Split
from pneumonia.core.params_file import load_params
from pneumonia.core.tables import write_table

PARAMS = load_params(ROOT / "params.yaml")


def make_split(images: int, views: int = 1) -> Split:
    labels = np.arange(images, dtype=np.uint8) % 2
    return Split(np.zeros((images * views, 8, 8), np.uint8), labels, labels.astype(str), np.zeros(images, bool))


DATASET = Dataset(make_split(6, views=2), make_split(3), make_split(2), {0: 1.0, 1: 1.0})


# Columns as in training.range_test, which is not imported as it needs TensorFlow.
RATES = np.geomspace(1e-7, 10, 20)
LOSSES = 1 + 0.1 * np.abs(np.arange(20) - 12.0)
RANGE_TEST = pd.DataFrame({
    "log10_learning_rate": np.log10(RATES).round(4), "learning_rate": RATES, "loss": LOSSES, "smoothed": LOSSES,
    "suggestion": ["steepest valley" if step == 11 else "" for step in range(20)],
})  # fmt: skip
FOUND = float(RATES[11])  # learning rate
FIGURE = Figure()


def write_range_test(path: Path, table: pd.DataFrame | None = None) -> None:
    """Write a range test, or the header that stands for none."""
    write_table(RANGE_TEST.head(0) if table is None else table, path)
