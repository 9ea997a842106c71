"""The registered model as MLflow loads it: code, a .keras file and what it is used with; no pickle."""

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
    """Images in, calibrated probability of pneumonia and decision out.

    An image is the bytes of a JPEG, PNG or DICOM file, these in base64, the path of one, or grey values 0 to 255 as
    numpy.uint8 (height, width) or a list of lists. A server does not take paths: they would be those of its own files.
    """

    def load_context(self, context: Any) -> None:
        """Load the model and what it is used with from the version's artifacts."""
        self.predictor = Predictor.read(Path(context.artifacts["model"]))

    # MLflow warns without a type hint and infers a schema from most; this one keeps the signature that is logged.
    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        """Return a table with columns probability, decision and novel for the column image.

        Novel is what does not look like a frontal chest radiograph; the rest means nothing then.

        Raises:
            ImageRefusedError: one of them is no usable image.
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
    # Before base64, for a path may happen to be that too.
    if "mlflow.pyfunc.scoring_server" not in sys.modules and isfile(image):
        return Path(image).read_bytes()
    try:
        return base64.b64decode("".join(image.split()), validate=True)  # MLflow breaks it into lines
    except ValueError:
        raise ImageRefusedError("no image in base64, and no file that may be read") from None


set_model(PneumoniaClassifier())
