"""What turns a classifier's log odds into a probability and a decision; fixed on validation, kept with the model."""

from pathlib import Path
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from pneumonia.core.errors import InputError
from pneumonia.core.params import Section, Share
from pneumonia.core.tables import CLASSES


class OperatingPoint(Section):
    """How a model is used.

    Attributes:
        classes: names of label 0 and 1.
        image_size: side of the model's input in pixels.
        flip: average an image's log odds with those of its mirror image.
        temperature: by which log odds are divided.
        threshold: calibrated probability from which an image is called pneumonia.
        rule: how the threshold was chosen.
        notice: what has to be said with every answer, as of a model of synthetic images; empty for nothing.
    """

    classes: tuple[str, str] = CLASSES
    image_size: Annotated[int, Field(ge=1)]
    flip: bool
    temperature: Annotated[float, Field(gt=0)]
    threshold: Share
    rule: str
    notice: str = ""

    def find_probabilities(self, log_odds: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Return the calibrated probability of pneumonia, 0 to 1, of log odds of any shape."""
        return calibrate(log_odds, self.temperature)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what was written as JSON.

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
    """Return the probability of pneumonia, 0 to 1, of log odds of any shape; their order stays."""
    return np.exp(-np.logaddexp(0, -np.asarray(log_odds, np.float64) / temperature))
