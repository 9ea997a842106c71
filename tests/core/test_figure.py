"""A figure is written whole or not at all, as the same bytes each time, and is closed."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt
from names import NASTY

from pneumonia.core.figure import caption, drawing
from pneumonia.core.params import PHANTOM_NOTICE


def draw(path: Path, notice: str = "") -> None:
    with drawing(path, 1, 2, (4, 3), "A title", notice) as axes:
        axes[0, 1].plot([1, 3, 2])


def test_the_same_figure_is_the_same_bytes_of_a_png(tmp_path: Path):
    draw(tmp_path / "one.png")
    draw(tmp_path / "two.png")
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert plt.get_fignums() == []


def test_the_notice_stands_in_red_at_the_lower_edge(tmp_path: Path):
    for name, notice in (("with", PHANTOM_NOTICE), ("without", "")):
        draw(tmp_path / f"{name}.png", notice)
    noticed, without = (plt.imread(tmp_path / f"{name}.png")[-40:] for name in ("with", "without"))
    assert np.any(noticed[..., 0] - noticed[..., 1] > 0.3)
    assert not np.any(without[..., 0] - without[..., 1] > 0.3)


def test_a_figure_that_fails_is_closed_and_leaves_no_file(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), drawing(tmp_path / "figure.png", 1, 1, (4, 3), "A title", ""):
        raise ZeroDivisionError
    assert plt.get_fignums() == []
    assert list(tmp_path.iterdir()) == []


def test_any_name_can_stand_in_a_figure(tmp_path: Path):
    with drawing(tmp_path / "figure.png", 1, len(NASTY), (30, 2), "A title", "") as axes:
        for axis, name in zip(axes.flat, NASTY, strict=True):
            axis.set_title(caption(name))
