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
from pneumonia.images.decode import read_file
from pneumonia.images.refusal import ImageRefusedError
from pneumonia.inference.predictor import Predictor

COLUMNS = ["probability", "decision", "novel", "error"]


class PneumoniaClassifier(PythonModel):
    """Map images to the calibrated probability of pneumonia and a decision.

    An image is the bytes of a file that the pipeline reads, these bytes in base64, the path of such a file, or grey
    values 0 to 255 as numpy.uint8 (height, width) or as a list of lists. A server refuses paths, which would name its
    own files.
    """

    def load_context(self, context: Any) -> None:
        """Load the model, its operating point and its novelty score from the artifacts of a version."""
        self.predictor = Predictor.read(Path(context.artifacts["model"]))

    # Without type hints MLflow warns, from most it infers a schema; these keep the logged signature.
    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        """Return a row for each image in the column `image`, in the same order.

        Returns:
            Columns probability (0 to 1), decision (class name), novel: true if the image does not look like a frontal
            chest radiograph, and the rest is meaningless; and error: why an image cannot be used. Of these four an
            image has either the first three or the last; what is missing is None, which JSON knows, unlike NaN.
        """
        read = [self._read(image) for image in model_input["image"]]
        images = [image for image in read if isinstance(image, np.ndarray)]
        answers = iter(self.predictor.predict(np.stack(images)) if images else [])
        rows = [vars(next(answers)) if isinstance(image, np.ndarray) else {"error": str(image)} for image in read]
        return pd.DataFrame(rows, columns=COLUMNS, dtype=object).replace({np.nan: None})

    def _read(self, image: Any) -> Pixels | ValueError:
        """Return an image, or why it is refused."""
        try:
            if isinstance(image, str):
                image = _decode(image)
            if isinstance(image, bytes):
                return self.predictor.read_image(image)
            return self.predictor.read_pixels(np.asarray(image))
        except ValueError as error:  # ImageRefusedError, and NumPy's where rows differ in length
            return error


def _decode(image: str) -> bytes:
    # First, as a path may be valid base64 too.
    if "mlflow.pyfunc.scoring_server" not in sys.modules and isfile(image):
        return read_file(Path(image))
    try:
        return base64.b64decode("".join(image.split()), validate=True)  # MLflow breaks it into lines
    except ValueError:
        raise ImageRefusedError("no image in base64, and no file that may be read") from None


set_model(PneumoniaClassifier())
