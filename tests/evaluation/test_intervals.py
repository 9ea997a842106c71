"""Intervals equal those of a slow bootstrap over patients, and weighted metrics equal scikit-learn's."""

import time
import tracemalloc
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import bootstrap, rankdata
from sklearn import metrics as sk

from pneumonia.evaluation import intervals
from pneumonia.evaluation.intervals import NO_INTERVAL, compare_models, measure_intervals
from pneumonia.evaluation.metrics import BINS, METRICS, measure, prepare_meter


def simulate_images(images: int, seed: int = 0, share_ill: float = 0.7) -> tuple[Any, Any]:
    """Return labels and probabilities in whole percent, so that many are equal."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(images) < share_ill).astype(np.uint8)
    return labels, (1 / (1 + np.exp(-rng.normal(2.0 * labels - 1, 1.2)))).round(2)


def name_patients(images: int, patients: int) -> Any:
    return np.array([f"person{k}" for k in np.random.default_rng(9).integers(patients, size=images)])


def measure_slowly(labels: Any, probabilities: Any, threshold: float) -> dict[str, float]:
    """Return every metric as scikit-learn or a loop computes it, NaN where undefined."""
    calls, images = probabilities >= threshold, len(labels)
    ill, called = int(labels.sum()), int(calls.sum())
    bins = [np.digitize(p, np.arange(1, BINS) / BINS) for p in probabilities]
    gaps = [sum(p - y for p, y, b in zip(probabilities, labels, bins, strict=True) if b == k) for k in range(BINS)]
    clipped = np.clip(probabilities, 1e-7, 1 - 1e-7)
    return {
        "loss": float(sk.log_loss(labels, clipped, labels=[0, 1])),
        "brier": float(sk.brier_score_loss(labels, probabilities, labels=[0, 1])),
        "calibration_error": float(sum(abs(gap) for gap in gaps) / images),
        "accuracy": float(sk.accuracy_score(labels, calls)),
        "roc_auc": float(sk.roc_auc_score(labels, probabilities)) if 0 < ill < images else np.nan,
        "pr_auc": float(sk.average_precision_score(labels, probabilities)) if ill else np.nan,
        "f1": float(sk.f1_score(labels, calls)) if ill or called else np.nan,
        "precision": float(sk.precision_score(labels, calls)) if called else np.nan,
        "sensitivity": float(sk.recall_score(labels, calls)) if ill else np.nan,
        "specificity": float(sk.recall_score(labels, calls, pos_label=0)) if ill < images else np.nan,
    }


def draw_slowly(patients: Any, resamples: int, seed: int) -> list[Any]:
    """Return the rows of each resample, a patient's as often as the patient is drawn."""
    names = sorted(set(patients))
    drawn = np.random.default_rng(seed).integers(len(names), size=(resamples, len(names)))
    return [np.concatenate([np.flatnonzero(patients == names[k]) for k in row]) for row in drawn]


BOUNDED = [name for name in METRICS if name not in NO_INTERVAL]


def read_bounds(table: Any, name: str) -> list[float]:
    return table.loc[name, ["low", "high"]].tolist()


def width(table: pd.DataFrame) -> Any:
    return table["high"] - table["low"]


@st.composite
def weighed_images(draw: st.DrawFn) -> tuple[Any, Any, Any]:
    """Return labels of both classes, probabilities of which many are equal or extreme, and whole weights."""
    labels = [0, 1, *draw(st.lists(st.integers(0, 1), max_size=30))]
    few, any_ = st.sampled_from([0.0, 0.1, 0.3, 0.5, 1.0]), st.floats(0, 1)
    probabilities = draw(st.lists(few | any_, min_size=len(labels), max_size=len(labels)))
    weights = [1, 1, *draw(st.lists(st.integers(0, 4), min_size=len(labels) - 2, max_size=len(labels) - 2))]
    return np.array(labels, np.uint8), np.array(probabilities), np.array(weights, float)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(images=weighed_images(), threshold=st.floats(0.01, 0.99))
def test_a_weight_is_a_number_of_copies(images: tuple[Any, Any, Any], threshold: float):
    labels, probabilities, weights = images
    rows = np.repeat(np.arange(len(labels)), weights.astype(int))
    expected = measure_slowly(labels[rows], probabilities[rows], threshold)
    if np.isnan(expected["precision"]):
        expected["precision"] = 0
    assert measure(labels, probabilities, threshold, weights) == pytest.approx(expected, abs=1e-12)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(images=weighed_images(), scale=st.floats(1e-3, 1e3))
def test_weights_need_not_be_whole_and_only_their_ratio_counts(images: tuple[Any, Any, Any], scale: float):
    labels, probabilities, weights = images
    fractions = weights * scale / 3
    measured = measure(labels, probabilities, 0.5, fractions)
    expected = {
        "roc_auc": sk.roc_auc_score(labels, probabilities, sample_weight=fractions),
        "pr_auc": sk.average_precision_score(labels, probabilities, sample_weight=fractions),
        "brier": sk.brier_score_loss(labels, probabilities, sample_weight=fractions),
    }
    assert {name: measured[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert measured == pytest.approx(measure(labels, probabilities, 0.5, weights), abs=1e-12)


def draw_crowds() -> dict[str, tuple[Any, Any, Any]]:
    """Return labels, probabilities and patients, in two of three with resamples in which a class is missing."""
    few = np.array([0.9, 0.7, 0.7, 0.6, 0.3, 0.2, 0.6, 0.4, 0.1])
    return {
        "25 patients": (*simulate_images(60, 1), name_patients(60, 25)),
        "one of 5 healthy": (np.array([1, 1, 1, 1, 1, 1, 0, 0, 0], np.uint8), few, np.array(list("aabbcdeee"))),
        "one of 5 ill": (np.array([1, 1, 0, 0, 0, 0, 0, 0, 0], np.uint8), few, np.array(list("aabbcdeee"))),
    }


each_crowd = pytest.mark.parametrize("crowd", draw_crowds())


@each_crowd
@pytest.mark.parametrize("paired", [False, True])
def test_intervals_are_those_of_a_loop_that_repeats_rows(crowd: str, paired: bool):
    labels, probabilities, patients = draw_crowds()[crowd]
    other, resamples = probabilities**2, draw_slowly(patients, 40, 5)
    drawn = pd.DataFrame([measure_slowly(labels[rows], other[rows], 0.45) for rows in resamples])
    table = measure_intervals(labels, other, 0.45, patients, 40, 5)
    if paired:
        drawn -= pd.DataFrame([measure_slowly(labels[rows], probabilities[rows], 0.65) for rows in resamples])
        table = compare_models(labels, probabilities, other, (0.65, 0.45), patients, 40, 5)
    assert drawn["roc_auc"].isna().any() == (crowd != "25 patients")
    for name in BOUNDED:
        assert read_bounds(table, name) == pytest.approx(np.nanpercentile(drawn[name], [2.5, 97.5]), abs=1e-12)


@pytest.mark.parametrize("name", ["brier", "sensitivity", "roc_auc"])
def test_with_one_image_per_patient_they_agree_with_scipy(name: str):
    labels, probabilities = simulate_images(300)

    def statistic(y: Any, p: Any) -> float:
        if name == "brier":
            return ((p - y) ** 2).mean()
        if name == "sensitivity":
            return (p[y == 1] >= 0.5).mean()
        ill = y.sum()
        return (rankdata(p)[y == 1].sum() - ill * (ill + 1) / 2) / (ill * (len(y) - ill))

    settled = {"method": "percentile", "paired": True, "vectorized": False, "n_resamples": 5000}
    scipys = bootstrap((labels.astype(int), probabilities), statistic, rng=np.random.default_rng(3), **settled)
    expected = scipys.confidence_interval
    ours = measure_intervals(labels, probabilities, 0.5, np.arange(300).astype(str), 5000)
    # A normal figure's 2.5 % quantile has a standard error of 2.67 / sqrt(resamples) of its standard deviations, two
    # such differ by 0.053, and the interval is 3.92 wide: 6 % of it are 4.4 standard errors.
    assert read_bounds(ours, name) == pytest.approx(expected, abs=0.06 * (expected.high - expected.low))


def test_equal_images_of_a_patient_count_little_more_than_one_image():
    labels, probabilities = (np.repeat(column, 9) for column in simulate_images(80))
    together = measure_intervals(labels, probabilities, 0.5, np.repeat(np.arange(80).astype(str), 9))
    apart = measure_intervals(labels, probabilities, 0.5, np.arange(720).astype(str))
    single = measure_intervals(labels[::9], probabilities[::9], 0.5, np.arange(80).astype(str))
    assert (width(together)[BOUNDED] > 2 * width(apart)[BOUNDED]).all()  # three times in theory
    assert width(together)[BOUNDED].to_dict() == pytest.approx(width(single)[BOUNDED].to_dict(), rel=0.2)


def draw_study(rng: np.random.Generator, patients: int, each: int) -> tuple[Any, Any]:
    """Return labels and probabilities of a model that is too sure, the images of a patient alike."""
    log_odds = np.repeat(rng.normal(0.8, 1.5, patients), each) + rng.normal(0, 0.3, patients * each)
    labels = (rng.random(len(log_odds)) < 1 / (1 + np.exp(-log_odds))).astype(np.uint8)
    return labels, 1 / (1 + np.exp(-1.3 * log_odds))


def test_about_95_of_100_intervals_hold_the_truth_whatever_the_metric():
    """Every interval that is given has about its nominal coverage; that of the calibration error had not."""
    rng, studies = np.random.default_rng(4), 200
    truth = measure(*draw_study(rng, 200_000, 1), 0.5)
    held = dict.fromkeys(METRICS, 0)
    for study in range(studies):
        table = measure_intervals(*draw_study(rng, 100, 2), 0.5, np.repeat(np.arange(100), 2), 200, study)
        for name in METRICS:
            low, high = read_bounds(table, name)
            held[name] += low <= truth[name] <= high
    # Chance moves 95 % of 200 by a standard error of 1.5 %; 100 patients and 200 resamples cost about 1 %.
    assert {name for name, count in held.items() if count / studies < 0.89} == set(NO_INTERVAL)


def test_intervals_over_images_miss_the_truth_more_often_when_images_of_a_patient_agree():
    rng, held = np.random.default_rng(4), {"patients": 0, "images": 0}
    for study in range(100):
        right = np.repeat(rng.beta(4, 1, size=60), 4)  # how often a patient's images are called right: 0.8 on average
        labels = np.repeat(rng.integers(2, size=60), 4).astype(np.uint8)
        calls = np.where(rng.random(240) < right, labels, 1 - labels).astype(float)
        for unit, whose in (("patients", np.repeat(np.arange(60), 4)), ("images", np.arange(240))):
            low, high = read_bounds(measure_intervals(labels, calls, 0.5, whose, 200, study), "accuracy")
            held[unit] += low <= 0.8 <= high
    assert held["images"] < held["patients"]


def test_no_usual_bootstrap_interval_of_the_calibration_error_holds_0_for_a_calibrated_model():
    """Percentile, basic (Davison & Hinkley 1997, section 5.2) and bias-corrected (Efron 1981): at most two of three."""
    rng, studies = np.random.default_rng(6), 60
    held, row, normal = (
        {"percentile": 0, "basic": 0, "bias-corrected": 0},
        METRICS.index("calibration_error"),
        NormalDist(),
    )
    for study in range(studies):
        log_odds = rng.normal(1, 2, 300)
        labels, probabilities = (rng.random(300) < expit(log_odds)).astype(np.uint8), expit(log_odds)
        meter, value = (
            prepare_meter(labels, probabilities, 0.5),
            measure(labels, probabilities, 0.5)["calibration_error"],
        )
        drawn = np.hstack([meter(weights)[row] for weights in intervals.draw_weights(np.arange(300), 300, study)])
        shift = 2 * normal.inv_cdf(np.clip((drawn <= value).mean(), 1 / 301, 300 / 301))
        low, high = np.quantile(drawn, [0.025, 0.975])
        held["percentile"] += low <= 0
        held["basic"] += 2 * value - high <= 0
        held["bias-corrected"] += np.quantile(drawn, normal.cdf(shift - 1.96)) <= 0
    assert max(held.values()) / studies < 0.67


@pytest.mark.parametrize("name", NO_INTERVAL)
def test_a_metric_whose_intervals_would_mislead_has_a_value_and_no_interval(name: str):
    labels, probabilities = simulate_images(100)
    whose = name_patients(100, 40)
    for table in (
        measure_intervals(labels, probabilities, 0.5, whose, 100),
        compare_models(labels, probabilities, probabilities**2, (0.5, 0.5), whose, 100),
    ):
        assert np.isfinite(table["value"][name])
        assert np.isnan(read_bounds(table, name)).all()
        assert table.drop(name).notna().to_numpy().all()


def test_a_model_does_not_differ_from_itself():
    labels, probabilities = simulate_images(200)
    table = compare_models(labels, probabilities, probabilities.copy(), (0.5, 0.5), name_patients(200, 90), 300)
    assert (table["value"] == 0).all()
    assert (table.loc[BOUNDED] == 0).to_numpy().all()


def test_a_difference_is_that_of_the_second_from_the_first():
    labels, probabilities = simulate_images(200)
    better, whose = np.where(labels == 1, np.sqrt(probabilities), probabilities**2), name_patients(200, 90)
    table = compare_models(labels, probabilities, better, (0.4, 0.6), whose, 300)
    new, old = measure(labels, better, 0.6), measure(labels, probabilities, 0.4)
    assert table["value"].to_dict() == {name: new[name] - old[name] for name in METRICS}
    assert read_bounds(table, "roc_auc")[0] > 0 > read_bounds(table, "brier")[1]
    swapped = compare_models(labels, better, probabilities, (0.6, 0.4), whose, 300)
    assert swapped["low"].to_dict() == pytest.approx((-table["high"]).to_dict(), abs=1e-12, nan_ok=True)


def test_a_paired_difference_of_similar_models_is_narrower_than_that_of_two_independent_samples():
    labels, first = simulate_images(400)
    second = np.clip(first + np.random.default_rng(2).normal(0, 0.03, size=400), 0, 1)
    whose = name_patients(400, 200)
    paired = width(compare_models(labels, first, second, (0.5, 0.5), whose))
    alone = [width(measure_intervals(labels, said, 0.5, whose, seed=k)) for k, said in enumerate((first, second))]
    names = ["brier", "accuracy", "roc_auc", "pr_auc", "f1", "sensitivity", "specificity"]
    assert (paired[names] < 0.6 * np.hypot(*alone)[names]).all()


def test_the_seed_alone_decides():
    labels, probabilities = simulate_images(100)
    images = labels, probabilities, 0.5, name_patients(100, 40)
    first, again, other = (measure_intervals(*images, resamples=200, seed=seed) for seed in (3, 3, 4))
    pd.testing.assert_frame_equal(first, again, check_exact=True)
    assert not first.equals(other)
    assert first["value"].equals(other["value"])


def test_the_order_of_images_does_not_matter():
    labels, probabilities = simulate_images(100)
    whose, order = name_patients(100, 40), np.random.default_rng(6).permutation(100)
    there = measure_intervals(labels, probabilities, 0.5, whose, 200)
    back = measure_intervals(labels[order], probabilities[order], 0.5, whose[order], 200)
    pd.testing.assert_frame_equal(there, back, check_exact=False, atol=1e-12, rtol=0)


@pytest.mark.parametrize("block", [1, 250, 1700])
def test_the_size_of_a_block_changes_nothing(block: int, monkeypatch: pytest.MonkeyPatch):
    labels, probabilities = simulate_images(101)
    images = labels, probabilities, 0.5, name_patients(101, 37)
    whole = measure_intervals(*images, resamples=200)
    monkeypatch.setattr(intervals, "BLOCK", block)
    pd.testing.assert_frame_equal(measure_intervals(*images, resamples=200), whole, check_exact=True)


def test_a_resample_without_a_class_counts_for_the_other_metrics_only():
    labels, probabilities = np.array([0, 1, 1, 1], np.uint8), np.array([0.2, 0.6, 0.7, 0.8])
    table = measure_intervals(labels, probabilities, 0.65, np.array(list("abcd")))
    assert table.loc[BOUNDED].notna().to_numpy().all()
    assert read_bounds(table, "specificity") == [1, 1]
    assert read_bounds(table, "accuracy") == [0.25, 1]


@pytest.mark.parametrize(
    ("label", "undefined"), [(1, {"roc_auc", "specificity"}), (0, {"roc_auc", "pr_auc", "sensitivity"})]
)
def test_a_class_that_never_occurs_leaves_what_needs_it_undefined(label: int, undefined: set[str]):
    labels, probabilities = np.full(6, label, np.uint8), np.linspace(0.1, 0.9, 6)
    table = measure_intervals(labels, probabilities, 0.5, np.array(list("aabbcd")))
    assert set(table.index[table["value"].isna()]) == undefined
    for bound in ("low", "high"):
        assert set(table.index[table[bound].isna()]) == undefined | set(NO_INTERVAL)


def test_the_precision_without_a_call_is_0_and_has_no_interval():
    labels, probabilities = simulate_images(40)
    table = measure_intervals(labels, probabilities / 2, 0.9, name_patients(40, 20), 100)
    assert table["value"]["precision"] == 0
    assert np.isnan(read_bounds(table, "precision")).all()
    assert table.loc[BOUNDED].drop("precision").notna().to_numpy().all()


def test_a_table_names_metrics_and_columns():
    labels, probabilities = simulate_images(30)
    for table in (
        measure_intervals(labels, probabilities, 0.5, name_patients(30, 9), 50),
        compare_models(labels, probabilities, probabilities, (0.5, 0.6), name_patients(30, 9), 50),
    ):
        assert tuple(table.index) == METRICS
        assert table.index.name == "metric"
        assert table.columns.tolist() == ["value", "low", "high"]
        assert (table.dtypes == np.float64).all()


def test_2000_resamples_of_600_images_take_seconds():
    labels, probabilities = simulate_images(600)
    start = time.perf_counter()
    measure_intervals(labels, probabilities, 0.5, name_patients(600, 300))
    assert time.perf_counter() - start < 5  # 0.1 s on two idle cores


def test_memory_does_not_grow_with_resamples():
    labels, probabilities = simulate_images(50_000)
    whose = name_patients(50_000, 25_000)
    tracemalloc.start()
    measure_intervals(labels, probabilities, 0.5, whose, 40)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6
