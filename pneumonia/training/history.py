"""Find the best epoch of a training history."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pneumonia.core.params import Monitor

Logs = dict[str, float]


def find_best(values: Sequence[float], monitor: Monitor) -> int:
    """Return the best epoch, counted from 0, given one value of `monitor` per epoch; NaN is never the best."""
    gains = -np.array(values) if monitor == "val_loss" else np.array(values)
    return int(np.argmax(np.nan_to_num(gains, nan=-np.inf)))


def describe_best(history: pd.DataFrame, monitor: Monitor) -> Logs:
    """Return the best epoch's row of a history as a dict."""
    row = history.iloc[find_best(history[monitor].to_list(), monitor)]
    return {"epoch": int(row["epoch"])} | {str(name): float(row[name]) for name in history.columns if name != "epoch"}
