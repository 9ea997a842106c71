"""The bounds of the gate hold their level, for few images and for images of a patient that are alike.

Run as a script, it prints the tables in docs/registry.md: PYTHONPATH=.:tests python tests/evaluation/test_bounds.py
"""

from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judged import judged_images
from scipy.optimize import minimize_scalar
from scipy.special import ndtr, xlogy

from pneumonia.evaluation.bounds import Z, bound_gains
from pneumonia.evaluation.intervals import compare_models

MARGINS = {"roc_auc": 0.01, "sensitivity": 0.03}
Study = tuple[Any, Any, Any, tuple[float, float], Any]


def draw_study(
    rng: np.random.Generator, count: int, areas: tuple[float, float], alike: float = 0.9, each: int = 4,
    sensitivities: tuple[float, float] = (0.95, 0.95),
) -> Study:  # fmt: skip
    """Return a test split of half ill, half healthy, and what two models make of it, as `bound_gains` takes it.

    Scores are normal in both classes. Half their variance is the patient's, and both models have a share in common.

    Args:
        rng: source of all that is random.
        count: of images.
        areas: true ROC AUC of the two models.
        alike: correlation of their scores in a class.
        each: at most so many images has a patient, and at least one.
        sensitivities: true ones of the two models, by which their thresholds are set.
    """
    labels = (np.arange(count) < count // 2).astype(np.uint8)
    owners = np.concatenate([np.repeat(np.arange(count), rng.integers(1, each + 1, count))[: n] for n in
                             (count // 2, count - count // 2)]) + count * labels.astype(int)  # fmt: skip
    _, owners = np.unique(owners, return_inverse=True)

    def draw(size: int) -> Any:
        shared = rng.normal(size=size)
        return alike**0.5 * shared + (1 - alike) ** 0.5 * rng.normal(size=(2, size))

    noise = (draw(int(owners.max()) + 1)[:, owners] + draw(count)) / 2**0.5
    normal = NormalDist()
    far = np.array([normal.inv_cdf(area) * 2**0.5 for area in areas])
    first, second = ndtr(noise + far[:, None] * (labels - 0.5))
    cuts = [normal.cdf(d / 2 - normal.inv_cdf(s)) for d, s in zip(far, sensitivities, strict=True)]
    return labels, first, second, (cuts[0], cuts[1]), owners


def count_passes(studies: int, metric: str, **drawn: Any) -> float:
    """Return the share of studies in which the second model is found not inferior by more than the margin."""
    rng = np.random.default_rng(5)
    return float(np.mean([bound_gains(*draw_study(rng, **drawn))[metric] >= -MARGINS[metric] for _ in range(studies)]))


@pytest.mark.parametrize("alike", [0.6, 0.9])
def test_with_50_images_an_inferior_model_passes_in_at_most_a_fortieth(alike: float) -> None:
    assert count_passes(300, "roc_auc", count=50, areas=(0.996, 0.985), alike=alike) <= 0.025


@pytest.mark.parametrize("count", [50, 200])
def test_a_lower_sensitivity_passes_in_about_a_fortieth(count: int) -> None:
    passed = count_passes(300, "sensitivity", count=count, areas=(0.99, 0.99), sensitivities=(0.96, 0.93))
    assert passed <= 0.025 + 2 * (0.025 * 0.975 / 300) ** 0.5


def test_with_many_images_an_equal_model_passes_more_often_than_not() -> None:
    assert count_passes(40, "roc_auc", count=582, areas=(0.99, 0.99)) > 0.5


@pytest.mark.parametrize("lost, won", [(0, 0), (1, 0), (0, 3), (7, 4), (30, 2)])
def test_at_the_bound_the_difference_is_z_deviations_away_at_the_most_probable_rates(lost: int, won: int) -> None:
    """Tango's definition, with the rates found by search instead of his formula."""
    count = 40
    first, second = np.ones(count + 1), np.ones(count + 1)
    second[:lost], first[lost : lost + won] = 0, 0
    labels = np.r_[np.ones(count), 0].astype(np.uint8)
    loss = -bound_gains(labels, first, second, (0.5, 0.4), np.arange(count + 1))["sensitivity"]

    def surprise(rate: float) -> float:  # of losses, where gains are rarer by `loss`
        return -xlogy([lost, won, count - lost - won], [rate, rate - loss, 1 - 2 * rate + loss]).sum()

    rate = minimize_scalar(surprise, bounds=(max(loss, 0), (1 + loss) / 2), options={"xatol": 1e-9}).x  # pyright: ignore
    deviation = ((2 * rate - loss - loss**2) / count) ** 0.5
    assert (won - lost) / count + loss == pytest.approx(Z * deviation, abs=1e-4)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(images=judged_images(), power=st.floats(0.3, 3), threshold=st.floats(0.01, 0.99))
def test_a_bound_lies_below_the_difference_and_not_below_minus_one(images: Any, power: float, threshold: float) -> None:
    labels, first = images
    study = labels, first, first**power, (0.5, threshold), np.arange(len(labels))
    bounds, values = bound_gains(*study), compare_models(*study, resamples=2)["value"]
    assert all(-1 <= bound <= values[metric] + 1e-9 for metric, bound in bounds.items())


def test_one_model_twice_loses_nothing_and_without_an_error_seen_another_one_may() -> None:
    labels = (np.arange(60) % 2).astype(np.uint8)
    said = 0.1 + 0.8 * labels
    assert set(bound_gains(labels, said, said.copy(), (0.5, 0.5), np.arange(60)).values()) == {0.0}
    other = bound_gains(labels, said, said + 0.01, (0.5, 0.5), np.arange(60))
    z = NormalDist().inv_cdf(0.975) ** 2
    assert other["sensitivity"] == other["specificity"] == pytest.approx(-z / (30 + z))  # Wilson's bound of 0 of 30
    assert other["roc_auc"] < -0.01


def test_more_images_of_the_same_patients_show_no_more() -> None:
    rng = np.random.default_rng(3)
    labels, first, second, cuts, _ = draw_study(rng, 100, (0.9, 0.92), each=1)
    once = bound_gains(labels, first, second, cuts, np.arange(100))
    labels, first, second = (np.repeat(column, 5) for column in (labels, first, second))
    assert bound_gains(labels, first, second, cuts, np.repeat(np.arange(100), 5)) == pytest.approx(once)
    apart = bound_gains(labels, first, second, cuts, np.arange(500))
    assert all(apart[metric] > once[metric] for metric in once)


def test_the_order_of_images_and_the_names_of_patients_do_not_matter() -> None:
    rng = np.random.default_rng(8)
    labels, first, second, cuts, owners = draw_study(rng, 80, (0.95, 0.9))
    order = rng.permutation(80)
    names = np.array([f"person{number}" for number in owners])
    turned = bound_gains(labels[order], first[order], second[order], cuts, names[order])
    assert turned == pytest.approx(bound_gains(labels, first, second, cuts, owners))


def main(studies: int = 1000) -> None:
    """Print the tables of the docs."""
    cases = {"roc_auc": ((0.996, 0.985), (0.99, 0.99), (0.996, 0.996)),
             "sensitivity": ((0.96, 0.93), (0.96, 0.96), (0.99, 0.99))}  # fmt: skip
    for metric, pairs in cases.items():
        print(f"| {metric} of champion, challenger | images | patients | bootstrap passes | score bound passes |")
        print("|---" * 5 + "|")
        for pair in pairs:
            for count in (50, 100, 200, 582):
                rng, passed, patients = np.random.default_rng(5), np.zeros(2), 0
                chosen: dict[str, Any] = (
                    {"areas": pair} if metric == "roc_auc" else {"areas": (0.99, 0.99), "sensitivities": pair}
                )
                for number in range(studies):
                    study = draw_study(rng, count, **chosen)
                    patients += len(np.unique(study[4]))
                    lows = (
                        compare_models(*study, resamples=500, seed=number)["low"][metric],
                        bound_gains(*study)[metric],
                    )
                    passed += np.array(lows) >= -MARGINS[metric]
                shares = " | ".join(f"{100 * share:.1f} %" for share in passed / studies)
                print(f"| {pair[0]}, {pair[1]} | {count} | {patients / studies:.0f} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
