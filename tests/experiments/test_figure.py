"""Experiments are drawn side by side, also those whose time of training is not known."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from pneumonia.core.params import PHANTOM_NOTICE
from pneumonia.experiments.figure import draw_comparison

COMPARED = pd.DataFrame(
    {"experiment": ["a", "b"], "split": ["patient", "original"], "roc_auc": [0.99, 0.95], "f1": [0.98, 0.93],
     "training_seconds": [200.0, np.nan], "parameters": [3_400_000, 25_000_000], "trainable": [1_100_000, 2_049]}
)  # fmt: skip


def test_the_comparison_is_the_same_png_each_time_and_grows_with_its_rows(tmp_path: Path):
    for name, table in {"one": COMPARED, "two": COMPARED, "long": pd.concat([COMPARED] * 3)}.items():
        draw_comparison(tmp_path / f"{name}.png", table.reset_index(drop=True), PHANTOM_NOTICE)
        assert plt.get_fignums() == []
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    short, long = (plt.imread(tmp_path / f"{name}.png").shape[0] for name in ("one", "long"))
    assert long > short


def test_another_metric_gives_another_picture(tmp_path: Path):
    for name, table in {"one": COMPARED, "two": COMPARED.assign(roc_auc=[0.9, 0.95])}.items():
        draw_comparison(tmp_path / f"{name}.png", table, "")
    assert (tmp_path / "one.png").read_bytes() != (tmp_path / "two.png").read_bytes()
