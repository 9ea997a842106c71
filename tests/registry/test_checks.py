"""A challenger has to hold the floors, not to be inferior to any champion so far, and to exceed the present one."""

from collections.abc import Hashable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
from versions import GATES, GOOD, IMAGES, WORSE, draw_images, predict

from pneumonia.core.params import Gates
from pneumonia.evaluation.bounds import bound_gains
from pneumonia.evaluation.intervals import compare_models
from pneumonia.registry.checks import Check, check_against, check_all, check_floors
from pneumonia.registry.evidence import Evidence, find_common_images

METRICS = ("roc_auc", "sensitivity", "specificity")
NON_INFERIOR = {metric: f"{metric} minus the champion's, lower bound, at least" for metric in METRICS}
GAIN = "roc_auc minus the champion's, above"
COMMON = "test images in common with the champion, at least"
PATIENTS = "patients among these, of either class, at least"
BETTER = predict(IMAGES, 0.2)
MEASURED = {"roc_auc": 0.9, "sensitivity": 0.9, "specificity": 0.9, "calibration_error": 0.05, "threshold": 0.5}


def make(name: str, predictions: pd.DataFrame | None, **changes: Any) -> Evidence:
    """Return a model of real images and of splits that share no patient, unless something of it is changed."""
    fields = {"synthetic": False, "crossing_patients": 0, "split": "patient 0.8/0.1/0.1 seed 123"}
    fields |= {field: changes.pop(field) for field in list(changes) if field in fields}
    read = None if predictions is None else lambda: predictions
    return Evidence(name, MEASURED | changes, read=read, **fields)


champion, challenger = partial(make, "the champion"), partial(make, "the challenger")


def judge(first: Evidence, second: Evidence, gates: Gates = GATES, earlier: tuple[Evidence, ...] = ()) -> list[Check]:
    """Check a challenger, the second, against a champion."""
    return check_all(second, first, earlier, gates)


def set_gates(**gates: Any) -> Gates:
    return GATES.model_copy(update=gates)


def failed(found: list[Check]) -> list[str]:
    return [check.what for check in found if not check.passed]


def find_bound(found: list[Check], metric: str = "roc_auc") -> float:
    return next(float(check.value) for check in found if check.what == NON_INFERIOR[metric])


def shift(images: pd.DataFrame, log_odds: float) -> pd.DataFrame:
    """Return predictions of the same ROC AUC at another operating point."""
    moved = np.log(images["finetuned"] / (1 - images["finetuned"])) + log_odds
    return images.assign(finetuned=1 / (1 + np.exp(-moved)))


@pytest.mark.parametrize(
    "metric, at_bound, beyond, name",
    [("roc_auc", 0.8, 0.799999, "roc_auc at least"), ("sensitivity", 0.8, 0.79, "sensitivity at least"),
     ("specificity", 0.8, 0.79, "specificity at least"),
     ("calibration_error", 0.1, 0.100001, "calibration_error at most")],
)  # fmt: skip
def test_each_floor_and_the_ceiling_of_the_calibration_error_refuse_by_name(
    metric: str, at_bound: float, beyond: float, name: str
):
    assert failed(check_floors(challenger(GOOD, **{metric: at_bound}), GATES)) == []
    assert failed(check_floors(challenger(GOOD, **{metric: beyond}), GATES)) == [name]


def test_a_metric_that_was_never_measured_passes_no_floor():
    measured = {name: value for name, value in MEASURED.items() if name != "calibration_error"}
    assert failed(check_floors(Evidence("", measured, False, 0, "", None), GATES)) == ["calibration_error at most"]


def test_without_a_champion_the_floors_suffice():
    assert [check.passed for check in check_all(challenger(GOOD), None, [], GATES)] == [True] * 4


def test_a_better_challenger_passes_and_a_clearly_worse_one_fails():
    better = judge(champion(WORSE), challenger(GOOD))
    assert failed(better) == [] and find_bound(better) > 0
    assert failed(judge(champion(GOOD), challenger(WORSE))) == [*NON_INFERIOR.values(), GAIN]


def test_a_better_model_below_a_floor_fails():
    assert failed(judge(champion(WORSE), challenger(GOOD, sensitivity=0.5))) == ["sensitivity at least"]


def test_a_tie_keeps_the_champion():
    assert failed(judge(champion(GOOD), challenger(GOOD), set_gates(margin_roc_auc=0.0))) == [GAIN]


def test_a_challenger_with_a_lower_estimate_within_the_margin_is_not_inferior_and_still_fails():
    gates = set_gates(margin_roc_auc=0.2, margin_sensitivity=0.2, margin_specificity=0.2)
    assert failed(judge(champion(GOOD), challenger(predict(IMAGES, 0.31)), gates)) == [GAIN]


@pytest.mark.parametrize("metric", METRICS)
def test_a_challenger_may_be_inferior_in_each_metric_by_its_margin_measured_at_the_lower_bound(metric: str):
    wide = dict.fromkeys([f"margin_{name}" for name in METRICS], 1.0)
    pair = champion(GOOD), challenger(predict(IMAGES, 0.35))
    bound = find_bound(check_against(*pair, GATES), metric)
    assert bound < 0
    at_margin, below = (set_gates(**wide | {f"margin_{metric}": -bound - less}) for less in (0, 1e-6))
    assert failed(check_against(*pair, at_margin)) == []
    assert failed(check_against(*pair, below)) == [NON_INFERIOR[metric]]


@pytest.mark.parametrize(
    "log_odds, lost, kept", [(-0.6, "sensitivity", "specificity"), (0.6, "specificity", "sensitivity")]
)
def test_a_higher_roc_auc_does_not_make_up_for_a_worse_operating_point(log_odds: float, lost: str, kept: str):
    found = judge(champion(GOOD), challenger(shift(BETTER, log_odds)))
    assert failed(found) == [NON_INFERIOR[lost]]
    assert find_bound(found, kept) > -GATES.margin_sensitivity


def test_a_threshold_that_loses_sensitivity_fails_whatever_the_roc_auc():
    found = judge(champion(GOOD), challenger(BETTER, threshold=0.65, sensitivity=0.83))
    assert failed(found) == [NON_INFERIOR["sensitivity"]]


def test_each_model_is_measured_at_its_own_operating_point():
    odds = 0.6
    threshold = 1 / (1 + np.exp(-odds))  # moves along with the probabilities
    assert failed(judge(champion(GOOD), challenger(shift(BETTER, odds), threshold=threshold))) == []


def test_an_estimate_within_the_margin_is_not_enough_if_its_lower_bound_is_not():
    few = draw_images(60)
    first, second = predict(few, 0.4), predict(few, 0.4, seed=3)
    gain = compare(first, second, few["patient_id"])
    assert gain["value"] > -GATES.margin_roc_auc > gain["low"]
    assert NON_INFERIOR["roc_auc"] in failed(check_against(champion(first), challenger(second), GATES))


def compare(first: pd.DataFrame, second: pd.DataFrame, patients: Any) -> dict[Hashable, float]:
    """Return the difference in ROC AUC with its paired interval."""
    scores = [table["finetuned"].to_numpy() for table in (first, second)]
    labels = first["actual"].to_numpy(np.uint8)
    return compare_models(labels, scores[0], scores[1], (0.5, 0.5), np.asarray(patients)).T["roc_auc"].to_dict()


def test_the_lower_bound_is_that_of_the_paired_interval_over_patients():
    images = draw_images(200, of_each=5)
    tables = [
        table.assign(finetuned=table.groupby("patient_id")["finetuned"].transform("first"))  # images of a patient alike
        for table in (predict(images, 0.5), predict(images, 0.6, seed=1))
    ]
    found = find_bound(check_against(champion(tables[0]), challenger(tables[1]), GATES))
    scores = [table["finetuned"].to_numpy() for table in tables]
    of_patients, of_images = (
        bound_gains(images["actual"].to_numpy(np.uint8), scores[0], scores[1], (0.5, 0.5), owners)["roc_auc"]
        for owners in (images["patient_id"].to_numpy(), np.arange(200))
    )
    assert found == round(of_patients, 6) < round(of_images, 6)


def test_images_of_unknown_patients_are_drawn_one_by_one():
    images = draw_images(200, of_each=5).assign(patient_id="")
    tables = predict(images, 0.5), predict(images, 0.6, seed=1)
    pair = champion(tables[0], crossing_patients=None), challenger(tables[1], crossing_patients=None)
    found = find_bound(check_against(*pair, GATES))
    first, second = (table["finetuned"].to_numpy() for table in tables)
    bounds = bound_gains(images["actual"].to_numpy(np.uint8), first, second, (0.5, 0.5), np.arange(200))
    assert found == round(bounds["roc_auc"], 6)


def test_equal_predictions_are_not_inferior_by_any_margin():
    # Two separate intervals would overlap by their whole width.
    gates = set_gates(margin_roc_auc=0.0, margin_sensitivity=0.0, margin_specificity=0.0)
    assert failed(check_against(champion(WORSE), challenger(WORSE), gates)) == []


def test_images_in_only_one_of_the_test_splits_do_not_count():
    other = draw_images(100, first=1000)
    wrong = other.assign(finetuned=1.0 - other["actual"])
    first = champion(pd.concat([GOOD, other.assign(finetuned=0.5)]))
    alone = find_bound(check_against(first, challenger(predict(IMAGES, 0.4)), GATES))
    second = challenger(pd.concat([draw_images(50, first=2000), wrong.assign(sha256="f" + other["sha256"].str[1:]),
                                   predict(IMAGES, 0.4)]))  # fmt: skip
    found = check_against(first, second, GATES)
    assert (found[1], find_bound(found)) == (Check(COMMON, 200, 50, True), alone)


def test_images_are_matched_by_content_not_by_name():
    moved = GOOD.assign(path="elsewhere/" + GOOD["path"]).sample(frac=1, random_state=1)
    common = find_common_images(champion(GOOD), challenger(moved)).sort_values("sha256")
    scores = [common[f"finetuned_{name}"].tolist() for name in ("champion", "challenger")]
    assert scores == [GOOD["finetuned"].tolist()] * 2


def test_an_image_that_a_split_holds_twice_counts_once():
    twice = pd.concat([GOOD, GOOD.assign(path="copy/" + GOOD["path"])])
    assert len(find_common_images(champion(twice), challenger(twice))) == 200


@pytest.mark.parametrize("common, passed", [(0, False), (49, False), (50, True)])
def test_too_few_common_images_refuse_a_challenger(common: int, passed: bool):
    found = judge(champion(GOOD), challenger(predict(draw_images(200, first=200 - common), 0.1)))
    assert found[5] == Check(COMMON, common, 50, passed)
    assert (COMMON in failed(found)) != passed
    assert any(check.what == GAIN for check in found) == passed


def test_common_images_of_one_class_refuse_a_challenger():
    found = judge(champion(GOOD[GOOD["actual"] == 1]), challenger(GOOD))
    assert found[5:] == [Check(COMMON, 100, 50, True), Check(PATIENTS, 0, 20, False)]


@pytest.mark.parametrize("of_each, passed", [(5, True), (6, False)])
def test_many_images_of_few_patients_are_not_enough(of_each: int, passed: bool):
    images = draw_images(200, of_each=of_each)
    found = check_against(champion(predict(images, 0.8)), challenger(predict(images, 0.2)), GATES)
    assert found[2] == Check(PATIENTS, -(-100 // of_each), 20, passed)
    assert (PATIENTS in failed(found)) != passed


def test_a_model_of_synthetic_images_never_replaces_one_of_real_images():
    assert failed(judge(champion(WORSE), challenger(GOOD, synthetic=True))) == ["trained on images that are"]


def test_a_model_of_real_images_replaces_one_of_synthetic_images_on_its_floors_alone():
    first, images = champion(GOOD, synthetic=True), predict(draw_images(first=1000), 0.3)
    found = judge(first, challenger(images))
    assert failed(found) == [] and Check("trained on images that are", "real", "synthetic", True) in found
    assert failed(judge(first, challenger(images, specificity=0.1))) == ["specificity at least"]


def test_models_of_synthetic_images_are_compared_with_each_other():
    found = judge(champion(GOOD, synthetic=True), challenger(WORSE, synthetic=True))
    assert NON_INFERIOR["roc_auc"] in failed(found)


@pytest.mark.parametrize("ours", [0, 3, None])
@pytest.mark.parametrize("theirs", [0, 3, None])
def test_splits_that_share_patients_or_may_share_them_never_replace_splits_that_do_not(
    ours: int | None, theirs: int | None
):
    pair = champion(WORSE, crossing_patients=theirs), challenger(GOOD, crossing_patients=ours)
    refused = theirs == 0 != ours
    assert failed(check_against(*pair, GATES)) == (["patients in more than one split, at most"] if refused else [])


@pytest.mark.parametrize("drawn", ["patient 0.8/0.1/0.1 seed 124", "stratified 0.8/0.1/0.1 seed 123",
                                   "patient 0.7/0.1/0.2 seed 123", "unknown"])  # fmt: skip
def test_a_model_of_another_split_is_left_to_a_person(drawn: str):
    assert failed(judge(champion(WORSE), challenger(GOOD, split=drawn))) == ["split drawn as"]


def test_a_model_without_predictions_refuses_a_challenger():
    assert failed(judge(champion(None), challenger(GOOD))) == ["predictions stored with the champion"]


def test_the_best_of_the_lineage_is_a_bar_in_each_metric():
    best = make("version 1", GOOD)
    present = champion(shift(predict(IMAGES, 0.25), 0.4))  # better in ROC AUC and sensitivity, worse in specificity
    found = judge(present, challenger(shift(BETTER, 0.4)), earlier=(best,))
    assert failed(found) == ["specificity minus version 1's, lower bound, at least"]
    assert [check.what for check in found if "version" in check.what] == failed(found)


def test_a_champion_that_is_best_itself_is_compared_once():
    found = judge(champion(GOOD), challenger(BETTER), earlier=(make("version 1", WORSE),))
    assert not [check.what for check in found if "version" in check.what]


@pytest.mark.parametrize(
    "changes", [{"synthetic": True}, {"crossing_patients": 3}, {"on": draw_images(first=1000)}, {"on": None}]
)
def test_an_earlier_champion_that_cannot_be_compared_sets_no_bar(changes: dict[str, Any]):
    images = changes.pop("on", IMAGES)
    best = make("version 1", None if images is None else predict(images, 0.1), **changes)
    assert failed(judge(champion(WORSE), challenger(predict(IMAGES, 0.6)), earlier=(best,))) == []
