"""The registered model as MLflow loads it: code, a .keras file and its operating point; no pickle."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from pneumonia.images import ImageRefusedError, Pixels, read_film
from pneumonia.model import load_model
from pneumonia.operating_point import OperatingPoint
from pneumonia.predict import predict_probabilities


class PneumoniaClassifier(PythonModel):
    """Bytes of JPEG or PNG files in, calibrated probability of pneumonia and decision out."""

    def load_context(self, context: Any) -> None:
        """Load model and operating point from the version's artifacts."""
        self.model = load_model(Path(context.artifacts["model"]))
        self.point = OperatingPoint.read(Path(context.artifacts["operating_point"]))

    # MLflow warns without a type hint and infers a schema from most; this one keeps the signature that is logged.
    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        """Return a table with columns probability and decision for files in the column film.

        Raises:
            ImageRefusedError: one of them is no usable film.
        """
        films = [self._read(number, content) for number, content in enumerate(model_input["film"], 1)]
        probabilities = predict_probabilities(self.model, np.stack(films), self.point)
        called = np.where(probabilities >= self.point.threshold, *reversed(self.point.classes))
        return pd.DataFrame({"probability": probabilities, "decision": called})

    def _read(self, number: int, content: bytes) -> Pixels:
        try:
            return read_film(content, self.point.image_size)
        except ImageRefusedError as error:
            raise ImageRefusedError(f"film {number}: {error}") from None


set_model(PneumoniaClassifier())
