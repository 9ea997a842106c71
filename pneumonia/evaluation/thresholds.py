"""Choose the operating point of a model on the validation split."""

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from pneumonia.core.errors import InputError
from pneumonia.core.params import EvaluateParams, ThresholdRule
from pneumonia.evaluation.calibration import fit_temperature
from pneumonia.evaluation.metrics import Labels, Probabilities
from pneumonia.inference.operating_point import OperatingPoint


def choose_operating_point(
    labels: Labels, log_odds: npt.NDArray[np.float64], image_size: int, params: EvaluateParams
) -> OperatingPoint:
    """Fit a model's temperature on the validation split and, unless the threshold is a number, choose that by its rule.

    Args:
        labels: of the validation images, 0 or 1, shape (n,).
        log_odds: of pneumonia by the model, shape (n,).
        image_size: side of the model's input in pixels.
        params: section evaluate.

    Raises:
        InputError: validation lacks one of the classes.
    """
    temperature = fit_temperature(labels, log_odds)
    point = OperatingPoint(
        image_size=image_size, flip=params.flip, temperature=temperature, threshold=0.5, rule="fixed"
    )
    if not isinstance(params.threshold, str):
        return point.model_copy(update={"threshold": params.threshold})
    threshold = choose_threshold(labels, point.calibrate(log_odds), params.threshold, params.sensitivity_floor)
    rule = params.threshold + (f" {params.sensitivity_floor:g}" if params.threshold == "sensitivity_floor" else "")
    return point.model_copy(update={"threshold": threshold, "rule": rule})


def choose_threshold(
    labels: Labels, probabilities: Probabilities, rule: ThresholdRule, sensitivity_floor: float = 0.0
) -> float:
    """Return the threshold that is best on these images by a rule.

    It lies midway between two neighbouring probabilities, 0 and 1 among them. Among equally good thresholds it is the
    lowest, which misses the fewest images with pneumonia.

    Args:
        labels: 0 or 1, shape (n,).
        probabilities: of pneumonia, 0 to 1, shape (n,).
        rule: youden: sensitivity + specificity - 1 (Youden 1950, doi:10.1002/1097-0142(1950)3:1<32::AID-CNCR2820030106
            >3.0.CO;2-3); f1: F1 of pneumonia; sensitivity_floor: specificity, given at least that sensitivity.
        sensitivity_floor: 0 to 1, for the rule of that name.

    Raises:
        InputError: one of the classes does not occur.
    """
    ill, healthy = (np.sort(probabilities[labels == label]) for label in (1, 0))
    if not len(ill) or not len(healthy):
        raise InputError(
            f"No threshold can be chosen by {rule}: of {len(labels)} validation images {len(ill)} show pneumonia.",
            expected="images of both classes",
            remedy="raise split.ratios.val, or set evaluate.threshold to a number",
        )
    scores = np.unique(np.r_[0.0, probabilities, 1.0])
    middles = (scores[:-1] + scores[1:]) / 2
    thresholds = np.where(middles > scores[:-1], middles, scores[1:])  # there is nothing between adjacent floats
    tp, fp = (len(group) - np.searchsorted(group, thresholds) for group in (ill, healthy))
    # The decimal number as it is written: 0.55 as a float is above 0.55, and of 100 images would ask for 56.
    needed = math.ceil(Fraction(repr(float(sensitivity_floor))) * len(ill))
    # In whole numbers, so that equal gains compare equal.
    gains = {
        "youden": tp * len(healthy) - fp * len(ill),
        "f1": 2 * tp / (tp + fp + len(ill)),
        "sensitivity_floor": np.where(tp >= needed, -fp, -len(healthy) - 1),
    }[rule]
    return float(thresholds[np.argmax(gains)])
