"""What is planted is found: wrong labels, near duplicates, odd images."""

import numpy as np
import pytest
from scipy.special import expit

from pneumonia.audit.issues import examine_features, score_labels

RNG = np.random.default_rng(0)
LABELS = RNG.permutation(np.repeat([0, 1], [300, 700]))
FEATURES = RNG.normal(size=(1000, 40)) + 3 + 2 * LABELS[:, None]


def test_four_of_five_wrong_labels_are_among_the_most_doubtful_tenth() -> None:
    log_odds = RNG.normal(LABELS * 8 - 4, 8**0.5)  # of a calibrated model with a ROC AUC of 0.977
    wrong = RNG.choice(1000, 50, replace=False)
    given = np.where(np.isin(np.arange(1000), wrong), 1 - LABELS, LABELS)
    found = score_labels(given, expit(log_odds))
    assert np.isin(found["score"].nsmallest(100).index, wrong).sum() >= 40


def test_labels_that_every_prediction_confirms_are_not_doubtful() -> None:
    assert not score_labels(LABELS, np.where(LABELS == 1, 0.97, 0.03))["doubtful"].any()


def test_the_score_is_the_probability_of_the_given_label() -> None:
    probabilities = RNG.uniform(0.01, 0.99, 1000)
    expected = np.where(LABELS == 1, probabilities, 1 - probabilities)
    np.testing.assert_allclose(score_labels(LABELS, probabilities)["score"], expected)


def test_near_duplicates_are_pairs_with_their_distance_nearest_first() -> None:
    copied = FEATURES.copy()
    copied[7], copied[500] = copied[3] * 1.001 + 1e-3, copied[499] + 0.05
    _, pairs = examine_features(LABELS, copied)
    assert pairs[["first", "second"]].to_numpy().tolist() == [[3, 7], [499, 500]]
    cosine = copied[499] @ copied[500] / np.linalg.norm(copied[499]) / np.linalg.norm(copied[500])
    assert pairs["distance"][1] == pytest.approx(1 - cosine)


def test_without_near_duplicates_there_is_no_pair() -> None:
    assert examine_features(LABELS, FEATURES)[1].empty


def test_an_image_unlike_all_others_is_an_outlier() -> None:
    odd = FEATURES.copy()
    odd[42] = -30 * np.sign(RNG.normal(size=40))
    found, _ = examine_features(LABELS, odd)
    assert found["score"].idxmin() == 42
    assert found["outlier"][42]
