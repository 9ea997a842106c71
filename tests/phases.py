"""Inputs of a training phase and what it tells MLflow, without training anything."""

from pathlib import Path

import numpy as np
import pandas as pd
from projects import ROOT

from pneumonia.core.dataset import Dataset, Split
from pneumonia.core.params_file import load_params
from pneumonia.core.tables import write_table
from pneumonia.training.range_test import DTYPES, draw_range_test, find_suggestion, suggest

PARAMS = load_params(ROOT / "params.yaml")


def make_split(images: int, views: int = 1) -> Split:
    labels = np.arange(images, dtype=np.uint8) % 2
    return Split(np.zeros((images * views, 8, 8), np.uint8), labels, labels.astype(str), np.zeros(images, bool))


DATASET = Dataset(make_split(6, views=2), make_split(3), make_split(2), {0: 1.0, 1: 1.0})


def make_range_test() -> pd.DataFrame:
    """Return a range test from 1e-7 on whose loss falls."""
    losses = [1.0] * 11 + [0.8, 0.4, 0.2, 0.9] + [1.0] * 5
    rates = 10.0 ** np.linspace(-7, 1, len(losses))
    curve = pd.DataFrame(dict(zip(DTYPES, (np.log10(rates).round(4), rates, losses, losses), strict=False)))
    return suggest(curve)


def write_range_test(path: Path, falling: bool = False) -> None:
    """Write a range test, or the header that stands for none."""
    write_table(make_range_test() if falling else pd.DataFrame(columns=list(DTYPES)), path)


RANGE_TEST = make_range_test()
FOUND = find_suggestion(RANGE_TEST, "valley")  # learning rate
FIGURE = draw_range_test(RANGE_TEST, "no clinical meaning")
