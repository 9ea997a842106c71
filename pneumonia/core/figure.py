"""Draw a figure and write it as the same bytes each time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

from pneumonia.core.files import replacing

mpl.use("Agg")  # figures go to files, also on a machine with a screen


@contextmanager
def drawing(path: Path, rows: int, columns: int, size: tuple[float, float], title: str, notice: str) -> Iterator[Any]:
    """Yield axes and write the figure when the block ends without an error.

    Args:
        path: of the PNG.
        rows: of axes.
        columns: of axes.
        size: width and height in inches, of 100 pixels each.
        title: above the axes.
        notice: below the axes; empty for none.

    Yields:
        Axes, array of shape (rows, columns).
    """
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    figure.suptitle(title)
    if notice:
        figure.supxlabel(notice, fontsize="medium", color="firebrick")
    try:
        yield axes
        with replacing(path) as beside:
            figure.savefig(beside, dpi=100, metadata={"Software": None})
    finally:
        plt.close(figure)
