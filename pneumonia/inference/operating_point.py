"""Turn log odds into a probability and a decision: settings chosen on validation and shipped with the model."""

from pathlib import Path
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from pneumonia.core.errors import InputError
from pneumonia.core.params import Section, Share
from pneumonia.core.tables import CLASSES


class OperatingPoint(Section):
    """Settings with which a model is used.

    Attributes:
        classes: names of label 0 and 1.
        image_size: side of the model's input in pixels.
        flip: average an image's log odds with those of its mirror image.
        temperature: divisor of the log odds.
        threshold: lowest calibrated probability that is called pneumonia.
        rule: how the threshold was chosen.
        notice: shown with every answer, for example that the model saw synthetic images only; empty for none.
    """

    classes: tuple[str, str] = CLASSES
    image_size: Annotated[int, Field(ge=1)]
    flip: bool
    temperature: Annotated[float, Field(gt=0)]
    threshold: Share
    rule: str
    notice: str = ""

    def calibrate(self, log_odds: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Return the calibrated probabilities of pneumonia, 0 to 1, for log odds of any shape."""
        return calibrate(log_odds, self.temperature)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read an operating point from JSON.

        Raises:
            InputError: the file is missing or holds something else.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except (ValidationError, OSError) as error:
            wrong = error.strerror if isinstance(error, OSError) else f"{error.error_count()} unusable value(s)"
            raise InputError(
                f"{path} is no operating point: {wrong}.",
                expected=", ".join(cls.model_fields),
                remedy="dvc repro",
            ) from error


def calibrate(log_odds: npt.NDArray[np.floating], temperature: float) -> npt.NDArray[np.float64]:
    """Return probabilities of pneumonia, 0 to 1, for log odds of any shape: the sigmoid of log odds / temperature."""
    return np.exp(-np.logaddexp(0, -np.asarray(log_odds, np.float64) / temperature))
