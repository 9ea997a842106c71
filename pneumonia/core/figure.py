"""Draw a figure and write it as the same bytes each time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

from pneumonia.core.files import replacing


@contextmanager
def drawing(path: Path, rows: int, columns: int, size: tuple[float, float], title: str, notice: str) -> Iterator[Any]:
    """Yield axes (rows, columns) and write the figure as PNG; `notice` stands below it."""
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
