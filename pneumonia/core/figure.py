"""Draw a figure and write it as the same bytes each time."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.font_manager import findfont, get_font

from pneumonia.core.files import replacing
from pneumonia.core.paths import shorten, to_line

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


def caption(name: str, longest: int = 30) -> str:
    """Return a file's name as a figure can print it: one line, without formulas, and only signs that its font has."""
    signs = "".join(c if ord(c) in _list_signs() else c.encode("unicode_escape").decode() for c in to_line(name))
    return shorten(signs, longest).replace("$", r"\$")


@cache
def _list_signs() -> frozenset[int]:
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())  # matplotlib brings this font along
