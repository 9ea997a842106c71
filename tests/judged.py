"""Labels and probabilities to measure."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

# Four ill and six healthy; at 0.5 one of the ill is missed and two of the healthy are called ill.
LABELS = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], np.uint8)
PROBABILITIES = np.array([0.9, 0.8, 0.6, 0.3, 0.7, 0.5, 0.4, 0.2, 0.1, 0.05])


@st.composite
def judged_images(draw: st.DrawFn) -> tuple[Any, Any]:
    """Return labels of both classes and a probability for each."""
    labels = [0, 1, *draw(st.lists(st.integers(0, 1), max_size=30))]
    probabilities = draw(st.lists(st.floats(0, 1, width=32), min_size=len(labels), max_size=len(labels)))
    return np.array(labels, np.uint8), np.array(probabilities)
