"""A series of promotions cannot walk downhill: simulated champions and challengers on one pool of test images.

Run as a script, it prints the table in docs/registry.md: PYTHONPATH=.:tests python tests/registry/test_series.py
"""

from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest

from pneumonia.core.params import Gates
from pneumonia.registry.checks import check_against, check_gain, check_lineage, check_non_inferior
from pneumonia.registry.evidence import Evidence, find_common_images

ROUNDS, POOL, IN_TEST = 20, 600, 500  # images of the pool, of which each version is tested on others
FIRST, ALIKE = 3.0, 0.97  # separation of the first champion, correlation of two models' errors
MARGIN = 0.01
GATES = Gates(
    min_roc_auc=0, min_sensitivity=0, min_specificity=0, max_calibration_error=1, margin_roc_auc=MARGIN,
    margin_sensitivity=0.03, margin_specificity=0.03, min_common_images=50, min_common_patients=20,
)  # fmt: skip
SERIES = {"equally good, but for chance": 0.0, "slightly worse each time": -0.05}
CHANCE = 0.1  # of the separation; 0.003 of the ROC AUC

Rule = Callable[[list[Evidence], Evidence], bool]


def old_rule(champions: list[Evidence], challenger: Evidence) -> bool:
    """Replace a champion by whatever is not inferior to it in ROC AUC."""
    checks = check_non_inferior(champions[-1], challenger, {"roc_auc": MARGIN})
    return all(check.passed for check in checks)


def new_rule(champions: list[Evidence], challenger: Evidence) -> bool:
    """Replace a champion as the gate does."""
    *earlier, champion = champions
    if not check_gain(champion, challenger).passed:  # first, as it is quick
        return False
    checks = check_against(champion, challenger, GATES) + check_lineage(champion, earlier, challenger, GATES)
    return all(check.passed for check in checks)


def find_roc_auc(separation: float) -> float:
    """Return the true ROC AUC of scores that are normal in both classes, their means this many deviations apart."""
    return NormalDist().cdf(separation / 2**0.5)


def simulate(rule: Rule, drift: float, seed: int) -> tuple[int, float]:
    """Let each of ROUNDS challengers be as good as the present champion but for chance, and worse by a drift.

    Args:
        rule: whether a challenger replaces the last of the champions.
        drift: mean change of the separation of a challenger; its standard deviation is CHANCE.
        seed: of all that is random.

    Returns:
        How many were promoted, and the true ROC AUC of the last champion minus that of the first.
    """
    rng = np.random.default_rng(seed)
    actual = np.arange(POOL) % 2
    hardness = rng.normal(size=POOL)  # what all models find hard

    def draw(separation: float) -> Evidence:
        noise = ALIKE**0.5 * hardness + (1 - ALIKE) ** 0.5 * rng.normal(size=POOL)
        log_odds = separation * (separation * (actual - 0.5) + noise)
        number = np.arange(POOL)
        table = pd.DataFrame({"sha256": number.astype(str), "patient_id": number.astype(str), "actual": actual,
                              "finetuned": 1 / (1 + np.exp(-log_odds))})  # fmt: skip
        test = table.iloc[rng.permutation(POOL)[:IN_TEST]]
        return Evidence("a model", {"threshold": 0.5}, True, 0, "", lambda: test)

    separations, champions = [FIRST], [draw(FIRST)]
    for _ in range(ROUNDS):
        separation = separations[-1] + drift + CHANCE * rng.normal()
        challenger = draw(separation)
        if rule(champions, challenger):
            separations.append(separation)
            champions.append(challenger)
    return len(champions) - 1, find_roc_auc(separations[-1]) - find_roc_auc(separations[0])


@pytest.mark.parametrize("drift", SERIES.values(), ids=SERIES)
def test_twenty_rounds_lose_no_more_than_the_margin(drift: float):
    assert min(simulate(new_rule, drift, seed)[1] for seed in (3, 4)) >= -MARGIN


@pytest.mark.parametrize("drift", SERIES.values(), ids=SERIES)
def test_twenty_rounds_of_mere_non_inferiority_lose_more(drift: float):
    assert simulate(old_rule, drift, seed=4)[1] < -MARGIN


def test_models_are_compared_on_images_of_both_test_splits():
    ours, theirs = (Evidence("", {}, True, 0, "", lambda f=first: pd.DataFrame(
        {"sha256": [str(f), "9"], "actual": [0, 1], "finetuned": [0.1, 0.9]})) for first in (1, 2))  # fmt: skip
    assert find_common_images(ours, theirs)["sha256"].tolist() == ["9"]


def main(series: int = 12) -> None:
    """Print the table of the docs."""
    print("| challengers | rule | promotions | mean change | worst series | series that lose more than 0.01 |")
    print("|---" * 6 + "|")
    for name, drift in SERIES.items():
        for rule in (old_rule, new_rule):
            found = [simulate(rule, drift, seed) for seed in range(series)]
            promoted, change = (np.array(column) for column in zip(*found, strict=True))
            print(f"| {name} | {rule.__name__} | {promoted.mean():.1f} | {change.mean():+.4f} | {change.min():+.4f} "
                  f"| {int((change < -MARGIN).sum())} |")  # fmt: skip


if __name__ == "__main__":
    main()
