"""Turn log odds into a probability and a decision: settings chosen on validation and shipped with the model."""

from pathlib import Path
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from pneumonia.core.errors import InputError
from pneumonia.core.files import bad_digest, sha256_file
from pneumonia.core.names import CLASSES
from pneumonia.core.params import Section, Share


class OperatingPoint(Section):
    """Settings with which a model is used.

    Attributes:
        classes: names of label 0 and 1.
        image_size: side of the model's input in pixels.
        flip: average an image's log odds with those of its mirror image.
        temperature: divisor of the log odds.
        threshold: lowest calibrated probability that is called pneumonia.
        rule: how the threshold was chosen.
        model_sha256, novelty_sha256: of the .keras and .npz file that it belongs to; empty where made without files,
            as by earlier versions of this project, and then not checked.
        notice: shown with every answer, for example that the model saw synthetic images only; empty for none.
    """

    classes: tuple[str, str] = CLASSES
    image_size: Annotated[int, Field(ge=32, le=1024)]  # as model.image_size
    flip: bool
    temperature: Annotated[float, Field(gt=0)]
    threshold: Share
    rule: str
    notice: str = ""
    model_sha256: str = ""
    novelty_sha256: str = ""

    def calibrate(self, log_odds: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Return the calibrated probabilities of pneumonia, 0 to 1, for log odds of any shape."""
        return calibrate(log_odds, self.temperature)

    def bind(self, model: Path, novelty: Path, notice: str) -> Self:
        """Return this operating point with the SHA-256 of the files that it belongs to, and a notice."""
        digests = {"model_sha256": sha256_file(model), "novelty_sha256": sha256_file(novelty)}
        return self.model_copy(update={**digests, "notice": notice})

    def ensure_belongs(self, model: Path, novelty: Path) -> None:
        """Refuse files that this operating point was not chosen for.

        Raises:
            InputError: names the file.
        """
        for path, expected in ((model, self.model_sha256), (novelty, self.novelty_sha256)):
            if expected and path.is_file() and sha256_file(path) != expected:
                raise bad_digest(str(path), "the operating point beside it")

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
