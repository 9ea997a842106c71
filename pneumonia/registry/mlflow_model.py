"""The registered model as MLflow loads it: code and artifacts, no pickle."""

import base64
import sys
from os.path import isfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from pneumonia.core.dataset import Pixels
from pneumonia.images.refusal import ImageRefusedError
from pneumonia.inference.predictor import Predictor


class PneumoniaClassifier(PythonModel):
    """Map images to the calibrated probability of pneumonia and a decision.

    An image is the bytes of a JPEG, PNG or DICOM file, these bytes in base64, the path of such a file, or grey values 0
    to 255 as numpy.uint8 (height, width) or as a list of lists. A server refuses paths, which would name its own files.
    """

    def load_context(self, context: Any) -> None:
        """Load the model, its operating point and its novelty score from the artifacts of a version."""
        self.predictor = Predictor.read(Path(context.artifacts["model"]))

    # Without type hints MLflow warns, from most it infers a schema; these keep the logged signature.
    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        """Return a row for each image in the column `image`, in the same order.

        Returns:
            Columns probability (0 to 1), decision (class name) and novel: true if the image does not look like a
            frontal chest radiograph, and the rest is meaningless.

        Raises:
            ImageRefusedError: an image cannot be used; names the first such image.
        """
        images = [self._read(number, image) for number, image in enumerate(model_input["image"], 1)]
        answers = self.predictor.predict(np.stack(images))
        return pd.DataFrame([vars(answer) for answer in answers])[["probability", "decision", "novel"]]

    def _read(self, number: int, image: Any) -> Pixels:
        try:
            if isinstance(image, str):
                image = _decode(image)
            if isinstance(image, bytes):
                return self.predictor.read_image(image)
            return self.predictor.read_pixels(np.asarray(image))
        except (ImageRefusedError, OSError) as error:
            raise ImageRefusedError(f"image {number}: {error}") from None


def _decode(image: str) -> bytes:
    # First, as a path may be valid base64 too.
    if "mlflow.pyfunc.scoring_server" not in sys.modules and isfile(image):
        return Path(image).read_bytes()
    try:
        return base64.b64decode("".join(image.split()), validate=True)  # MLflow breaks it into lines
    except ValueError:
        raise ImageRefusedError("no image in base64, and no file that may be read") from None


set_model(PneumoniaClassifier())
