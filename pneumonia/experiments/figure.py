"""Draw the results of experiments side by side."""

from pathlib import Path

import numpy as np
import pandas as pd

from pneumonia.core.figure import caption, drawing


def draw_comparison(path: Path, table: pd.DataFrame, notice: str) -> None:
    """Draw test metrics, training time and size of experiments, with the split beside each name.

    Args:
        path: PNG to write.
        table: one row per experiment; columns experiment, split, roc_auc, f1, training_seconds, parameters, trainable.
        notice: stands below the figure, empty for none.
    """
    rows = np.arange(len(table))[::-1]
    names = [f"{caption(name)}\nsplit {split}" for name, split in zip(table["experiment"], table["split"], strict=True)]
    with drawing(path, 1, 3, (14, 1.5 + 0.6 * len(table)), "Test metrics, time and size", notice) as axes:
        quality, time, size = axes.flat
        for metric, label, marker in (("roc_auc", "ROC AUC", "o"), ("f1", "F1", "s")):
            quality.plot(table[metric], rows, marker, label=label)
        quality.set_yticks(rows, names)
        quality.grid(axis="x", alpha=0.3)
        time.barh(rows, table["training_seconds"], 0.5, color="tab:grey")
        time.bar_label(time.containers[0], fmt="%.0f s", padding=3)
        for values, label, colour in (("parameters", "all", "lightgrey"), ("trainable", "fine-tuned", "tab:green")):
            size.barh(rows, table[values] / 1e6, 0.5, color=colour, label=label)
        for axis, label in (
            (quality, "on the test split"),
            (time, "training, seconds"),
            (size, "parameters, millions"),
        ):
            axis.set(xlabel=label, ylim=(-0.6, len(table) - 0.4))
        for axis in (quality, size):
            axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
        for axis in (time, size):
            axis.set_yticks(rows, [])
            axis.margins(x=0.2)
