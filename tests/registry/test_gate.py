"""A challenger becomes champion if it holds the floors and exceeds the champion on images neither was trained on."""

import shutil
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.entities.model_registry import ModelVersion
from stores import working_in
from versions import GATES, GOOD, IMAGES, WORSE, crown, draw_images, find_champion, find_version, predict, register

from pneumonia.core.errors import InputError
from pneumonia.core.params import Gates
from pneumonia.evaluation.bounds import bound_gains
from pneumonia.evaluation.intervals import compare_models
from pneumonia.registry import checks, evidence, gate
from pneumonia.registry.audit import describe_freeze, read_audit
from pneumonia.registry.checks import Check
from pneumonia.registry.evidence import find_evidence
from pneumonia.registry.gate import consider, judge, may_register, read_checks
from pneumonia.registry.lock import PromotionRefusedError
from pneumonia.registry.promotion import promote, resume, rollback
from pneumonia.registry.versions import MODEL_NAME

METRICS = ("roc_auc", "sensitivity", "specificity")
NON_INFERIOR = {metric: f"{metric} minus the champion's, lower bound, at least" for metric in METRICS}
GAIN = "roc_auc minus the champion's, above"
COMMON = "test images in common with the champion, at least"
PATIENTS = "patients among these, of either class, at least"
FROZEN, UNDONE = "promotion frozen by a rollback", "rolled back since it was champion"
BETTER = predict(IMAGES, 0.2)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with a model that has no version yet."""
    with working_in(tmp_path_factory.mktemp("empty")) as store:
        mlflow.MlflowClient().create_registered_model(MODEL_NAME)
        return store


@pytest.fixture(autouse=True)
def store(empty: Path, tmp_path: Path) -> Iterator[Path]:
    with working_in(tmp_path, empty, PNEUMONIA_PROMOTER="the pipeline") as store:
        yield store


def check_floors(version: ModelVersion, gates: Gates) -> list[Check]:
    return checks.check_floors(find_evidence(version, "the challenger"), gates)


def check_against(champion: ModelVersion, challenger: ModelVersion, gates: Gates) -> list[Check]:
    pair = find_evidence(champion, "the champion"), find_evidence(challenger, "the challenger")
    return checks.check_against(*pair, gates)


def find_common_images(*versions: ModelVersion) -> pd.DataFrame:
    return evidence.find_common_images(*(find_evidence(version, "a model") for version in versions))


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
    assert failed(check_floors(register(GOOD, **{f"test_{metric}": str(at_bound)}), GATES)) == []
    assert failed(check_floors(register(GOOD, **{f"test_{metric}": str(beyond)}), GATES)) == [name]


def test_a_metric_that_was_never_measured_passes_no_floor():
    version = register(GOOD)
    del version.tags["test_calibration_error"]
    assert failed(check_floors(version, GATES)) == ["calibration_error at most"]


def test_without_a_champion_the_floors_suffice():
    outcome, found = consider(register(GOOD), GATES)
    assert (outcome, failed(found), find_champion()) == ("version 1 is the new champion", [], "1")
    assert len(found) == 4


def test_a_model_below_a_floor_stays_challenger_even_without_a_champion():
    outcome, found = consider(register(GOOD, test_roc_auc="0.79"), GATES)
    assert (outcome, failed(found)) == ("version 1 stays challenger", ["roc_auc at least"])
    assert find_champion() is None


def test_a_better_challenger_replaces_the_champion():
    crown(WORSE)
    outcome, found = consider(register(GOOD), GATES)
    assert (outcome, failed(found), find_champion()) == ("version 2 is the new champion", [], "2")
    assert find_bound(found) > 0


def test_a_clearly_worse_challenger_does_not():
    crown(GOOD)
    outcome, found = consider(register(WORSE), GATES)
    assert outcome == "version 2 stays challenger, champion is version 1"
    assert failed(found) == [*NON_INFERIOR.values(), GAIN]
    assert find_champion() == "1"


def test_a_better_model_below_a_floor_stays_challenger():
    crown(WORSE)
    assert failed(consider(register(GOOD, test_sensitivity="0.5"), GATES)[1]) == ["sensitivity at least"]
    assert find_champion() == "1"


def test_a_tie_keeps_the_champion():
    crown(GOOD)
    outcome, found = consider(register(GOOD), set_gates(margin_roc_auc=0.0))
    assert (outcome, failed(found)) == ("version 2 stays challenger, champion is version 1", [GAIN])


def test_a_challenger_with_a_lower_estimate_within_the_margin_is_not_inferior_and_still_not_promoted():
    crown(GOOD)
    outcome, found = consider(register(predict(IMAGES, 0.31)), set_gates(margin_roc_auc=0.2, margin_sensitivity=0.2,
                                                                        margin_specificity=0.2))  # fmt: skip
    assert (outcome, failed(found)) == ("version 2 stays challenger, champion is version 1", [GAIN])


@pytest.mark.parametrize("metric", METRICS)
def test_a_challenger_may_be_inferior_in_each_metric_by_its_margin_measured_at_the_lower_bound(metric: str):
    wide = dict.fromkeys([f"margin_{name}" for name in METRICS], 1.0)
    champion, challenger = crown(GOOD), register(predict(IMAGES, 0.35))
    bound = find_bound(check_against(champion, challenger, GATES), metric)
    assert bound < 0
    at_margin, below = (set_gates(**wide | {f"margin_{metric}": -bound - less}) for less in (0, 1e-6))
    assert failed(check_against(champion, challenger, at_margin)) == []
    assert failed(check_against(champion, challenger, below)) == [NON_INFERIOR[metric]]


@pytest.mark.parametrize(
    "log_odds, lost, kept", [(-0.6, "sensitivity", "specificity"), (0.6, "specificity", "sensitivity")]
)
def test_a_higher_roc_auc_does_not_make_up_for_a_worse_operating_point(log_odds: float, lost: str, kept: str):
    crown(GOOD)
    outcome, found = consider(register(shift(BETTER, log_odds)), GATES)
    assert outcome == "version 2 stays challenger, champion is version 1"
    assert failed(found) == [NON_INFERIOR[lost]]
    assert find_bound(found, kept) > -GATES.margin_sensitivity


def test_each_model_is_measured_at_its_own_operating_point():
    crown(GOOD)
    odds = 0.6
    threshold = 1 / (1 + np.exp(-odds))  # moves along with the probabilities
    outcome, found = consider(register(shift(BETTER, odds), test_threshold=str(threshold)), GATES)
    assert (outcome, failed(found)) == ("version 2 is the new champion", [])


def test_an_estimate_within_the_margin_is_not_enough_if_its_lower_bound_is_not():
    few = draw_images(60)
    champion, challenger = predict(few, 0.4), predict(few, 0.4, seed=3)
    gain = compare(champion, challenger, few["patient_id"])
    assert gain["value"] > -GATES.margin_roc_auc > gain["low"]
    assert NON_INFERIOR["roc_auc"] in failed(check_against(crown(champion), register(challenger), GATES))


def compare(champion: pd.DataFrame, challenger: pd.DataFrame, patients: Any) -> dict[Hashable, float]:
    """Return the difference in ROC AUC with its paired interval."""
    scores = [table["finetuned"].to_numpy() for table in (champion, challenger)]
    labels = champion["actual"].to_numpy(np.uint8)
    return compare_models(labels, scores[0], scores[1], (0.5, 0.5), np.asarray(patients)).T["roc_auc"].to_dict()


def test_the_lower_bound_is_that_of_the_paired_interval_over_patients():
    images = draw_images(200, of_each=5)
    champion, challenger = (
        table.assign(finetuned=table.groupby("patient_id")["finetuned"].transform("first"))  # images of a patient alike
        for table in (predict(images, 0.5), predict(images, 0.6, seed=1))
    )
    found = find_bound(check_against(crown(champion), register(challenger), GATES))
    first, second = (table["finetuned"].to_numpy() for table in (champion, challenger))
    of_patients, of_images = (
        bound_gains(images["actual"].to_numpy(np.uint8), first, second, (0.5, 0.5), owners)["roc_auc"]
        for owners in (images["patient_id"].to_numpy(), np.arange(200))
    )
    assert found == round(of_patients, 6) < round(of_images, 6)


def test_equal_predictions_are_not_inferior_by_any_margin():
    # Two separate intervals would overlap by their whole width.
    gates = set_gates(margin_roc_auc=0.0, margin_sensitivity=0.0, margin_specificity=0.0)
    assert failed(check_against(crown(WORSE), register(WORSE), gates)) == []


def test_images_in_only_one_of_the_test_splits_do_not_count():
    other = draw_images(100, first=1000)
    wrong = other.assign(finetuned=1.0 - other["actual"])
    champion = crown(pd.concat([GOOD, other.assign(finetuned=0.5)]))
    alone = find_bound(check_against(champion, register(predict(IMAGES, 0.4)), GATES))
    challenger = register(pd.concat([draw_images(50, first=2000), wrong.assign(sha256="f" + other["sha256"].str[1:]),
                                     predict(IMAGES, 0.4)]))  # fmt: skip
    found = check_against(champion, challenger, GATES)
    assert (found[1], find_bound(found)) == (Check(COMMON, 200, 50, True), alone)


def test_images_are_matched_by_content_not_by_name():
    moved = GOOD.assign(path="elsewhere/" + GOOD["path"]).sample(frac=1, random_state=1)
    common = find_common_images(register(GOOD), register(moved)).sort_values("sha256")
    scores = [common[f"finetuned_{name}"].tolist() for name in ("champion", "challenger")]
    assert scores == [GOOD["finetuned"].tolist()] * 2


def test_an_image_that_a_split_holds_twice_counts_once():
    twice = pd.concat([GOOD, GOOD.assign(path="copy/" + GOOD["path"])])
    assert len(find_common_images(register(twice), register(twice))) == 200


@pytest.mark.parametrize("common, passed", [(0, False), (49, False), (50, True)])
def test_too_few_common_images_refuse_a_challenger(common: int, passed: bool):
    champion, challenger = crown(GOOD), register(predict(draw_images(200, first=200 - common), 0.1))
    found = judge(challenger, champion, [], GATES)
    assert found[5] == Check(COMMON, common, 50, passed)
    assert (COMMON in failed(found)) != passed
    assert any(check.what == GAIN for check in found) == passed


def test_common_images_of_one_class_refuse_a_challenger():
    champion = crown(GOOD[GOOD["actual"] == 1])
    found = judge(register(GOOD), champion, [], GATES)
    assert found[5:] == [Check(COMMON, 100, 50, True), Check(PATIENTS, 0, 20, False)]


def test_a_model_of_synthetic_images_never_replaces_one_of_real_images():
    crown(WORSE)
    outcome, found = consider(register(GOOD, synthetic="True"), GATES)
    assert failed(found) == ["trained on images that are"]
    assert (outcome, find_champion()) == ("version 2 stays challenger, champion is version 1", "1")


def test_a_model_of_real_images_replaces_one_of_synthetic_images_without_common_images():
    crown(GOOD, synthetic="True")
    outcome, found = consider(register(predict(draw_images(first=1000), 0.3)), GATES)
    assert (outcome, find_champion()) == ("version 2 is the new champion", "2")
    assert Check("trained on images that are", "real", "synthetic", True) in found


def test_a_model_of_real_images_below_a_floor_does_not():
    crown(GOOD, synthetic="True")
    assert failed(consider(register(GOOD, test_specificity="0.1"), GATES)[1]) == ["specificity at least"]
    assert find_champion() == "1"


def test_models_of_synthetic_images_are_compared_with_each_other():
    crown(GOOD, synthetic="True")
    assert NON_INFERIOR["roc_auc"] in failed(consider(register(WORSE, synthetic="True"), GATES)[1])


@pytest.mark.parametrize("ours", ["0", "3", "unknown"])
@pytest.mark.parametrize("theirs", ["0", "3", "unknown"])
def test_splits_that_share_patients_or_may_share_them_never_replace_splits_that_do_not(ours: str, theirs: str):
    champion = crown(WORSE, crossing_patients=theirs)
    found = check_against(champion, register(GOOD, crossing_patients=ours), GATES)
    refused = theirs == "0" != ours
    assert failed(found) == (["patients in more than one split, at most"] if refused else [])


def test_images_of_unknown_patients_are_drawn_one_by_one():
    images = draw_images(200, of_each=5).assign(patient_id="")
    champion, challenger = predict(images, 0.5), predict(images, 0.6, seed=1)
    tags = {"crossing_patients": "unknown"}
    found = find_bound(check_against(crown(champion, **tags), register(challenger, **tags), GATES))
    first, second = (table["finetuned"].to_numpy() for table in (champion, challenger))
    bounds = bound_gains(images["actual"].to_numpy(np.uint8), first, second, (0.5, 0.5), np.arange(200))
    assert found == round(bounds["roc_auc"], 6)


def test_a_champion_without_stored_predictions_refuses_a_challenger():
    mlflow.MlflowClient().create_model_version(MODEL_NAME, "file:nowhere", tags={"test_roc_auc": "0.9"})
    promote("1", None, "", {}, "Ada")
    outcome, found = consider(register(GOOD), GATES)
    assert outcome == "version 2 stays challenger, champion is version 1"
    assert failed(found) == ["predictions stored with the champion"]


def test_the_best_of_the_lineage_is_a_bar_too():
    crown(BETTER)
    crown(WORSE)  # as by force
    outcome, found = consider(register(predict(IMAGES, 0.5)), GATES)
    assert outcome == "version 3 stays challenger, champion is version 2"
    assert failed(found) == [f"{metric} minus version 1's, lower bound, at least" for metric in METRICS]


def test_the_best_of_the_lineage_is_sought_in_each_metric():
    crown(GOOD)
    crown(shift(predict(IMAGES, 0.25), 0.4))  # better in ROC AUC and sensitivity, worse in specificity
    found = consider(register(shift(BETTER, 0.4)), GATES)[1]
    assert failed(found) == ["specificity minus version 1's, lower bound, at least"]
    assert [check.what for check in found if "version" in check.what] == failed(found)


def test_a_champion_that_is_best_itself_is_compared_once():
    crown(WORSE)
    crown(GOOD)
    assert not [check.what for check in consider(register(BETTER), GATES)[1] if "version" in check.what]


@pytest.mark.parametrize("why", ["rolled back", "deleted", "of synthetic images", "of a split that shares patients",
                                 "on other images", "without predictions"])  # fmt: skip
def test_an_earlier_version_sets_no_bar(why: str):
    crown(WORSE)
    tags = {"of synthetic images": {"synthetic": "True"}, "of a split that shares patients": {"crossing_patients": "3"}}
    images = draw_images(first=1000) if why == "on other images" else IMAGES
    best = crown(predict(images, 0.1), **tags.get(why, {}))
    if why == "without predictions":
        mlflow.MlflowClient().delete_model_version_tag(MODEL_NAME, best.version, "package_sha256")
    if why == "rolled back":
        rollback("misses effusions", "Ada")
        resume("of version 2 alone", "Ada")
    else:
        crown(WORSE)
    if why == "deleted":
        mlflow.MlflowClient().delete_model_version(MODEL_NAME, "2")
    assert "is the new champion" in consider(register(predict(IMAGES, 0.6)), GATES)[0]


def test_where_promotion_is_not_allowed_a_version_that_passes_stays_challenger_until_it_is(
    monkeypatch: pytest.MonkeyPatch,
):
    version = register(GOOD)
    monkeypatch.setenv("PNEUMONIA_PROMOTE", "false")
    outcome, found = consider(version, GATES)
    assert outcome == "version 1 stays challenger; it passed all gates, but PNEUMONIA_PROMOTE is false"
    assert failed(found) == [] and find_champion() is None
    monkeypatch.setenv("PNEUMONIA_PROMOTE", "")
    assert consider(find_version(1), GATES)[0] == "version 1 is the new champion"


@pytest.mark.parametrize("folder", ["", "src", ".dvc/tmp", "exps"])
def test_a_run_in_the_project_itself_registers(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(tmp_path / folder)
    assert may_register()


@pytest.mark.parametrize("value, may", [("", False), ("false", False), ("true", True)])
def test_a_run_in_a_temporary_work_tree_registers_only_if_asked_to(
    value: str, may: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tree = tmp_path / ".dvc/tmp/exps/standalone/tmpabc"
    tree.mkdir(parents=True)
    monkeypatch.chdir(tree)
    monkeypatch.setenv("PNEUMONIA_REGISTER", value)
    assert may_register() is may


def test_registration_can_be_forbidden_anywhere(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PNEUMONIA_REGISTER", "false")
    assert not may_register()


@pytest.mark.parametrize("name", ["PNEUMONIA_PROMOTE", "PNEUMONIA_REGISTER"])
def test_a_switch_that_is_neither_true_nor_false_is_an_error(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(name, "yes")
    with pytest.raises(InputError, match=f"{name} is 'yes'"):
        consider(register(GOOD), GATES) if name == "PNEUMONIA_PROMOTE" else may_register()


def test_checks_are_stored_with_the_version_and_in_the_audit_trail():
    crown(WORSE)
    _, found = consider(register(GOOD), GATES)
    assert read_checks(find_version(2)) == found
    record = read_audit()[-1]
    assert (record["by"], record["reason"], record["forced"]) == ("the pipeline", "passed all gates", False)
    assert record["evidence"] == {check.what: [check.value, check.bound, check.passed] for check in found}
    assert len(record["evidence"]) == len(found) == 11


def test_a_version_that_was_never_judged_has_no_checks():
    assert read_checks(register(GOOD)) == []


def test_the_same_evidence_is_not_judged_twice():
    crown(GOOD)
    _, found = consider(register(WORSE), GATES)
    shutil.rmtree(Path.cwd() / Path(str(find_version(2).source)).name)  # so that judging would fail
    again = consider(find_version(2), GATES)
    assert again == ("everything is up to date, version 2 stays challenger, champion is version 1", found)


def test_a_version_is_judged_again_when_the_gates_change():
    crown(WORSE)
    consider(register(GOOD, test_sensitivity="0.7"), GATES)
    outcome, found = consider(find_version(2), set_gates(min_sensitivity=0.6))
    assert (outcome, failed(found), find_champion()) == ("version 2 is the new champion", [], "2")
    assert read_checks(find_version(2)) == found


def test_a_version_is_judged_again_when_the_champion_changes():
    crown(WORSE)
    crown(BETTER)
    assert "stays challenger" in consider(register(GOOD), GATES)[0]
    rollback("misses effusions", "Ada")
    resume("of version 2 alone", "Ada")
    assert consider(find_version(3), GATES)[0] == "version 3 is the new champion"


def test_considering_the_champion_again_changes_nothing():
    _, found = consider(register(GOOD), GATES)
    assert consider(find_version(1), GATES) == ("everything is up to date, version 1 is the champion", found)
    assert len(read_audit()) == 1


def test_a_version_that_was_rolled_back_is_not_promoted_by_the_next_run_whatever_else_changed():
    crown(WORSE)
    consider(register(GOOD), GATES)
    rollback("misses effusions", "Ada")
    for gates in (GATES, GATES, set_gates(margin_roc_auc=0.5)):
        outcome, found = consider(find_version(2), gates)
        assert failed(found) == [FROZEN, UNDONE]
        assert "version 2 stays challenger, champion is version 1" in outcome
    assert find_champion() == "1"


def test_a_version_promoted_by_hand_after_a_rollback_is_considered_again():
    crown(WORSE)
    consider(register(GOOD), GATES)
    rollback("misses effusions", "Ada")
    promote("2", "1", "it does not", {}, "Bob")
    crown(WORSE)
    assert consider(find_version(2), GATES)[0] == "version 2 is the new champion"


def test_a_rollback_freezes_promotion_until_a_person_lifts_it():
    crown(WORSE)
    crown(predict(IMAGES, 0.5))
    rollback("misses effusions", "Ada")
    assert "frozen: Ada rolled back version 2 at" in describe_freeze() and "misses effusions" in describe_freeze()
    outcome, found = consider(register(GOOD), GATES)  # as another threshold of the same model would
    assert (outcome, failed(found)) == ("version 3 stays challenger, champion is version 1", [FROZEN])
    resume("a wrong window, which version 3 has not", "Ada")
    assert describe_freeze() == ""
    assert consider(find_version(3), GATES)[0] == "version 3 is the new champion"
    assert [record["took_place"] for record in read_audit()] == [True] * 5


def test_a_freeze_that_was_lifted_leaves_the_version_rolled_back_to_a_person():
    crown(WORSE)
    consider(register(GOOD), GATES)
    rollback("misses effusions", "Ada")
    resume("of version 2 alone", "Ada")
    assert failed(consider(find_version(2), GATES)[1]) == [UNDONE]


def test_a_rollback_of_what_a_resume_let_through_freezes_again_and_goes_back_by_one():
    crown(WORSE)
    crown(predict(IMAGES, 0.5))
    rollback("misses effusions", "Ada")
    resume("found", "Ada")
    consider(register(GOOD), GATES)
    assert rollback("misses them too", "Ada")["version"] == "1"
    assert "rolled back version 3" in describe_freeze()


def test_a_promotion_by_hand_lifts_a_freeze_and_needs_a_reason_for_that():
    crown(WORSE)
    crown(GOOD)
    rollback("misses effusions", "Ada")
    version = register(BETTER)
    with pytest.raises(InputError, match="what lifts a freeze has no reason"):
        promote("3", "1", " ", {}, "Bob")
    assert describe_freeze()
    promote(str(version.version), "1", "trained without ward 3", {}, "Bob")
    assert describe_freeze() == ""


def test_nothing_but_a_freeze_can_be_lifted():
    crown(GOOD)
    with pytest.raises(InputError, match="not frozen"):
        resume("why not", "Ada")
    assert len(read_audit()) == 1


def test_a_rollback_that_a_killed_process_did_not_complete_freezes_nothing():
    crown(WORSE)
    crown(GOOD)
    rollback("misses effusions", "Ada")
    mlflow.MlflowClient().set_registered_model_alias(MODEL_NAME, "champion", "2")  # as a killed process leaves it
    assert describe_freeze() == ""


@pytest.mark.parametrize("asked, champion", [("", "1"), ("true", "2")])
def test_an_experiment_promotes_only_if_asked_to(asked: str, champion: str, monkeypatch: pytest.MonkeyPatch):
    crown(WORSE)
    monkeypatch.setenv("DVC_EXP_NAME", "bold-lung")
    monkeypatch.setenv("PNEUMONIA_PROMOTE", asked)
    outcome, found = consider(register(GOOD), GATES)
    assert (failed(found), find_champion()) == ([], champion)
    assert ("an experiment promotes only if PNEUMONIA_PROMOTE is true" in outcome) == (champion == "1")
    monkeypatch.delenv("DVC_EXP_NAME")
    assert consider(find_version(2), GATES) and find_champion() == "2"  # as by `dvc repro` afterwards


def test_a_threshold_that_loses_sensitivity_is_not_promoted_whatever_the_roc_auc():
    crown(GOOD)
    outcome, found = consider(register(BETTER, test_threshold="0.65", test_sensitivity="0.83"), GATES)
    assert failed(found) == [NON_INFERIOR["sensitivity"]]
    assert (outcome, find_champion()) == ("version 2 stays challenger, champion is version 1", "1")


@pytest.mark.parametrize("drawn", ["patient 0.8/0.1/0.1 seed 124", "stratified 0.8/0.1/0.1 seed 123",
                                   "patient 0.7/0.1/0.2 seed 123", "unknown"])  # fmt: skip
def test_a_model_of_another_split_is_left_to_a_person(drawn: str):
    crown(WORSE)
    outcome, found = consider(register(GOOD, split_drawn=drawn), GATES)
    assert failed(found) == ["split drawn as"]
    assert (outcome, find_champion()) == ("version 2 stays challenger, champion is version 1", "1")


@pytest.mark.parametrize("of_each, passed", [(5, True), (6, False)])
def test_many_images_of_few_patients_are_not_enough(of_each: int, passed: bool):
    images = draw_images(200, of_each=of_each)
    found = check_against(crown(predict(images, 0.8)), register(predict(images, 0.2)), GATES)
    assert found[2] == Check(PATIENTS, -(-100 // of_each), 20, passed)
    assert (PATIENTS in failed(found)) != passed


def test_two_runs_that_judge_one_version_at_once_promote_it_once(monkeypatch: pytest.MonkeyPatch):
    crown(WORSE)
    challenger, real = register(GOOD), gate.judge

    def judge_slowly(*arguments: Any) -> list[Check]:
        monkeypatch.undo()
        consider(challenger, GATES)  # meanwhile, in the run beside this one
        return real(*arguments)

    monkeypatch.setattr(gate, "judge", judge_slowly)
    assert consider(challenger, GATES)[0] == "version 2 is the new champion"
    assert [record["version"] for record in read_audit()] == ["1", "2"]


def test_a_champion_restored_by_a_rollback_was_not_rolled_back():
    crown(GOOD)
    crown(WORSE)
    rollback("worse", "Ada")
    resume("of version 2 alone", "Ada")
    mlflow.MlflowClient().delete_registered_model_alias(MODEL_NAME, "champion")
    assert consider(find_version(1), GATES)[0] == "version 1 is the new champion"


def test_a_challenger_does_not_replace_a_champion_it_was_not_judged_against(monkeypatch: pytest.MonkeyPatch):
    crown(WORSE)
    challenger, real = register(GOOD), gate.judge

    def judge_slowly(*arguments: Any) -> list[Check]:
        found = real(*arguments)
        crown(GOOD)  # meanwhile, by somebody else
        return found

    monkeypatch.setattr(gate, "judge", judge_slowly)
    with pytest.raises(PromotionRefusedError, match="another promotion came first: version 3 by Ada"):
        consider(challenger, GATES)
    monkeypatch.undo()
    assert find_champion() == "3"
    assert read_checks(find_version(2)) == []  # so the next run judges it
