"""What a training phase has to tell MLflow."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from projects import ROOT

from pneumonia.core.dataset import Dataset, Split
from pneumonia.core.params_file import load_params
from pneumonia.core.tables import write_table
from pneumonia.training.range_test import DTYPES, suggest

PARAMS = load_params(ROOT / "params.yaml")


def make_split(images: int, views: int = 1) -> Split:
    labels = np.arange(images, dtype=np.uint8) % 2
    return Split(np.zeros((images * views, 8, 8), np.uint8), labels, labels.astype(str), np.zeros(images, bool))


DATASET = Dataset(make_split(6, views=2), make_split(3), make_split(2), {0: 1.0, 1: 1.0})


def write_range_test(path: Path, smoothed: Sequence[float] = ()) -> None:
    """Write a range test from 1e-7 on, or the header that stands for none."""
    rates = 10.0 ** np.arange(-7, -7 + len(smoothed))
    curve = pd.DataFrame(dict(zip(DTYPES, (np.log10(rates), rates, smoothed, smoothed), strict=False)))
    write_table(suggest(curve) if len(curve) else pd.DataFrame(columns=list(DTYPES)), path)
