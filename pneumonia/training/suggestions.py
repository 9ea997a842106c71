"""Read a learning rate off the curve of a range test, as fastai's `Learner.lr_find` does.

fastai 2, fastai/callback/schedule.py: `steep` and `valley`.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure

from pneumonia.core.errors import InputError
from pneumonia.core.tables import read_table

LOWEST, HIGHEST, STEPS = 1e-7, 10.0, 100  # of the range test
# Steps at either end in which fastai looks for no suggestion.
SKIPPED_FIRST, SKIPPED_LAST = STEPS // 10, 5
DTYPES = {
    "log10_learning_rate": "float64",
    "learning_rate": "float64",
    "loss": "float64",
    "smoothed": "float64",
    "suggestion": "str",
}


def suggest(curve: pd.DataFrame) -> pd.DataFrame:
    """Add the column `suggestion` to a range test: where fastai's `steep` and `valley` point.

    `steepest` is where the smoothed loss falls fastest over the logarithm of the learning rate. `valley` is the middle
    of the longest series of ever lower smoothed losses, other losses between them allowed.

    Args:
        curve: from `run_range_test`.

    Returns:
        The same table. `suggestion` holds "steepest", "valley", both or "".

    Raises:
        InputError: the smoothed loss never falls below its first value.
    """
    searched = slice(SKIPPED_FIRST, -SKIPPED_LAST)
    smoothed = curve["smoothed"].to_numpy()[searched]
    if not len(smoothed) or smoothed.min() >= smoothed[0]:
        raise InputError(
            f"The range test finds no learning rate from {LOWEST:g} to {HIGHEST:g} at which the loss falls.",
            expected="a loss that falls before it diverges",
            remedy="set learning_rate of this phase (train or finetune) to a number",
        )
    logarithm = np.log(curve["learning_rate"].to_numpy()[searched])
    found = {"steepest": int(np.argmin(np.diff(smoothed) / np.diff(logarithm))), "valley": _find_valley(smoothed)}
    rows = {name: SKIPPED_FIRST + row for name, row in found.items()}
    names = [" ".join(name for name in rows if rows[name] == row) for row in range(len(curve))]
    return curve.assign(suggestion=names)


def _find_valley(losses: npt.NDArray[np.float64]) -> int:
    length = np.ones(len(losses), int)  # of the longest falling series that ends here
    for row in range(1, len(losses)):
        length[row] += length[:row][losses[:row] > losses[row]].max(initial=0)
    end = int(length.argmax())
    longest = int(length[end])
    # fastai's rounding. For a fall of the first two losses only it arrives at -1: Python's last, the highest rate.
    return max(0, end - longest + longest // 3 + longest // 6)


def find_suggestion(table: pd.DataFrame, name: str) -> float:
    """Return the learning rate that "steepest" or "valley" suggests."""
    return float(table.loc[table["suggestion"].str.contains(name), "learning_rate"].iloc[0])


def read_range_test(path: Path) -> pd.DataFrame:
    """Read the table of a range test; it has no rows when there was no test.

    Raises:
        InputError: the file is not such a table.
    """
    return read_table(path, DTYPES)


def draw_range_test(table: pd.DataFrame, notice: str) -> Figure:
    """Draw the loss over the learning rate, with a mark at each suggestion and `notice` below."""
    figure = Figure((8, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot(table["learning_rate"], table["loss"], ".", color="lightgrey", label="loss of a batch")
    axes.plot(table["learning_rate"], table["smoothed"], label="smoothed")
    for name, colour in (("steepest", "tab:orange"), ("valley", "tab:green")):
        rate = find_suggestion(table, name)
        height = table.loc[table["learning_rate"] == rate, "smoothed"]
        axes.plot([rate], height, "o", color=colour, label=f"{name}: {rate:.2g}")
    axes.set(xscale="log", xlabel="Learning rate", ylabel="Loss", title="Learning-rate range test")
    # A diverging batch would flatten the rest.
    axes.set_ylim(0, 1.5 * float(table["smoothed"].iloc[SKIPPED_FIRST:].max()))
    axes.legend()
    if notice:
        figure.supxlabel(notice, fontsize="medium", color="firebrick")
    return figure
