"""Ask a model again for some of the scores that were stored with it."""

from pathlib import Path

import numpy as np

from pneumonia.core.dataset import read_dataset
from pneumonia.core.errors import InputError
from pneumonia.core.params import ComputeParams
from pneumonia.core.runtime import use_precision
from pneumonia.core.tables import read_predictions
from pneumonia.registry.gate import may_register
from pneumonia.registry.package import Package
from pneumonia.registry.versions import find_version

TOLERANCE = {"float32": 1e-4, "bfloat16": 0.05}  # of a probability, from one processor to another


def ensure_scores(package: Package, dataset: Path, compute: ComputeParams) -> None:
    """Refuse a model to be registered that scores the first, middle and last test image otherwise than stored.

    Raises:
        InputError: it does, or a file is damaged.
    """
    if not may_register() or find_version(package.sha256):
        return
    from pneumonia.inference.predictor import Predictor  # loads TensorFlow, which a known version does not need

    use_precision(compute.precision)
    test, stored = read_dataset(dataset).test, read_predictions(package.predictions).set_index("path")["finetuned"]
    asked = [0, len(test.labels) // 2, len(test.labels) - 1]
    answers = Predictor.read(package.model).predict(test.images[asked])
    expected = stored.reindex(test.paths[asked])
    for path, answer, score in zip(expected.index, answers, expected, strict=True):
        if not np.isclose(answer.probability, score, rtol=0, atol=TOLERANCE[compute.precision]):
            raise InputError(
                f"{package.model} gives {path} the probability {answer.probability:.4f}.",
                expected=f"{score:.4f}, as in {package.predictions}",
                remedy="dvc repro --force evaluate",
            )
