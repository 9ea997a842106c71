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

from pneumonia.images import ImageRefusedError, Pixels
from pneumonia.predictor import Predictor


class PneumoniaClassifier(PythonModel):
    """Films in, calibrated probability of pneumonia and decision out.

    A film is the bytes of a JPEG, PNG or DICOM file, these in base64, the path of one, or grey values 0 to 255 as
    numpy.uint8 (height, width) or a list of lists. A server does not take paths: they would be those of its own files.
    """

    def load_context(self, context: Any) -> None:
        """Load the model and what it is used with from the version's artifacts."""
        self.predictor = Predictor.read(Path(context.artifacts["model"]))

    # MLflow warns without a type hint and infers a schema from most; this one keeps the signature that is logged.
    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        """Return a table with columns probability, decision and novel for the column film.

        Novel is what does not look like a frontal chest radiograph; the rest means nothing then.

        Raises:
            ImageRefusedError: one of them is no usable film.
        """
        films = [self._read(number, film) for number, film in enumerate(model_input["film"], 1)]
        answers = self.predictor.predict(np.stack(films))
        return pd.DataFrame([vars(answer) for answer in answers])[["probability", "decision", "novel"]]

    def _read(self, number: int, film: Any) -> Pixels:
        try:
            if isinstance(film, str):
                film = _decode(film)
            if isinstance(film, bytes):
                return self.predictor.read_film(film)
            return self.predictor.read_pixels(np.asarray(film))
        except (ImageRefusedError, OSError) as error:
            raise ImageRefusedError(f"film {number}: {error}") from None


def _decode(film: str) -> bytes:
    # Before base64, for a path may happen to be that too.
    if "mlflow.pyfunc.scoring_server" not in sys.modules and isfile(film):
        return Path(film).read_bytes()
    try:
        return base64.b64decode("".join(film.split()), validate=True)  # MLflow breaks it into lines
    except ValueError:
        raise ImageRefusedError("no film in base64, and no file that may be read") from None


set_model(PneumoniaClassifier())
