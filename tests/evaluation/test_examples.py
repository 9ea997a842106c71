"""Examples are the images of which the model was most certain."""

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from judged import LABELS, PROBABILITIES, judged_images

from pneumonia.evaluation.examples import OUTCOMES, pick_examples, rank_errors
from pneumonia.evaluation.metrics import compute_metrics


def test_examples_of_each_outcome_are_those_of_which_the_model_was_most_certain():
    examples = pick_examples(LABELS, PROBABILITIES, threshold=0.5, number=2)
    found = {outcome: examples.index[examples == outcome].tolist() for outcome in OUTCOMES}
    assert list(found.values()) == [[0, 1], [9, 8], [4, 5], [3]]


@settings(derandomize=True, max_examples=20, deadline=None)
@given(images=judged_images(), threshold=st.floats(0.01, 0.99))
def test_every_image_has_the_outcome_that_is_counted(images: tuple[Any, Any], threshold: float):
    counted = compute_metrics(*images, threshold)
    outcomes = pick_examples(*images, threshold, number=len(images[0]))
    assert sorted(outcomes.index) == list(range(len(images[0])))
    assert [(outcomes == name).sum() for name in OUTCOMES] == [counted[name.replace(" ", "_")] for name in OUTCOMES]


@settings(derandomize=True, max_examples=20, deadline=None)
@given(images=judged_images(), threshold=st.floats(0.01, 0.99))
def test_errors_are_all_wrong_calls_the_most_confident_first(images: tuple[Any, Any], threshold: float):
    labels, probabilities = images
    errors = rank_errors(labels, probabilities, threshold)
    wrong = (probabilities >= threshold) != labels
    assert sorted(errors.index) == np.flatnonzero(wrong).tolist()
    assert set(errors) <= {"false positives", "false negatives"}
    assert (np.diff(np.abs(probabilities - labels)[errors.index]) <= 0).all()
