"""The registered model as MLflow loads it: code and a .keras file, no pickle."""

from typing import Any, cast

import keras
import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class PneumoniaClassifier(PythonModel):
    """Grey films in, probabilities of pneumonia out."""

    def load_context(self, context: Any) -> None:
        """Load the Keras model that lies beside this code."""
        self.model = keras.saving.load_model(context.artifacts["model"], compile=False, safe_mode=True)

    # MLflow warns without a type hint and infers a schema from most; an array keeps the signature that is logged.
    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> Any:
        """Return probabilities (n,) for grey values 0 to 255, uint8 (n, side, side)."""
        logits = cast(Any, self.model).predict(np.asarray(model_input)[..., None], verbose=0)[:, 0]
        return 1 / (1 + np.exp(-logits.astype(np.float64)))


set_model(PneumoniaClassifier())
