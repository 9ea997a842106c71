"""A challenger becomes champion when its floors hold and it is not inferior on images that neither was trained on."""

import json
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
from versions import GATES, GOOD, IMAGES, WORSE, crown, draw_images, find_champion, find_version, register, say

from pneumonia.core.errors import InputError
from pneumonia.core.params import Gates
from pneumonia.evaluation.intervals import compare_models
from pneumonia.registry import gate as gate
from pneumonia.registry.gate import Check, consider, find_evidence, judge, read_checks
from pneumonia.registry.promotion import MODEL_NAME, PromotionRefusedError, promote, read_audit, rollback

NON_INFERIOR = "roc_auc above the champion's, lower bound, at least"
COMMON = "test images in common with the champion, at least"


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
    return gate.check_floors(find_evidence(version, "the challenger"), gates)


def check_against(champion: ModelVersion, challenger: ModelVersion, gates: Gates) -> list[Check]:
    return gate.check_against(
        find_evidence(champion, "the champion"), find_evidence(challenger, "the challenger"), gates
    )


def find_common_images(*versions: ModelVersion) -> pd.DataFrame:
    return gate.find_common_images(*(find_evidence(version, "a model") for version in versions))


def set_gates(**gates: Any) -> Gates:
    return GATES.model_copy(update=gates)


def failed(checks: list[Check]) -> list[str]:
    return [check.what for check in checks if not check.passed]


def find_bound(checks: list[Check]) -> float:
    return next(float(check.value) for check in checks if check.what == NON_INFERIOR)


@pytest.mark.parametrize(
    "metric, at_bound, beyond, name",
    [("roc_auc", 0.8, 0.799999, "roc_auc at least"), ("sensitivity", 0.8, 0.79, "sensitivity at least"),
     ("specificity", 0.8, 0.79, "specificity at least"),
     ("calibration_error", 0.1, 0.100001, "calibration_error at most")],
)  # fmt: skip
def test_each_floor_and_the_ceiling_of_calibration_refuse_by_their_name(
    metric: str, at_bound: float, beyond: float, name: str
):
    assert failed(check_floors(register(GOOD, **{f"test_{metric}": str(at_bound)}), GATES)) == []
    assert failed(check_floors(register(GOOD, **{f"test_{metric}": str(beyond)}), GATES)) == [name]


def test_a_metric_that_was_never_measured_passes_no_floor():
    version = register(GOOD)
    del version.tags["test_calibration_error"]
    assert failed(check_floors(version, GATES)) == ["calibration_error at most"]


def test_without_a_champion_the_floors_suffice():
    outcome, checks = consider(register(GOOD), GATES)
    assert (outcome, failed(checks), find_champion()) == ("version 1 is the new champion", [], 1)
    assert len(checks) == 4


def test_a_model_below_a_floor_stays_challenger_even_without_a_champion():
    outcome, checks = consider(register(GOOD, test_roc_auc="0.79"), GATES)
    assert (outcome, failed(checks)) == ("version 1 stays challenger", ["roc_auc at least"])
    assert find_champion() is None


def test_a_better_challenger_takes_the_place_of_the_champion():
    crown(WORSE)
    outcome, checks = consider(register(GOOD), GATES)
    assert (outcome, failed(checks), find_champion()) == ("version 2 is the new champion", [], 2)
    assert find_bound(checks) > 0


def test_a_clearly_worse_challenger_does_not():
    crown(GOOD)
    outcome, checks = consider(register(WORSE), GATES)
    assert (outcome, failed(checks)) == ("version 2 stays challenger, champion is version 1", [NON_INFERIOR])
    assert find_champion() == 1


def test_a_better_model_below_a_floor_stays_challenger():
    crown(WORSE)
    assert failed(consider(register(GOOD, test_sensitivity="0.5"), GATES)[1]) == ["sensitivity at least"]
    assert find_champion() == 1


def test_a_challenger_may_be_worse_by_as_much_as_the_margin_by_the_lower_bound():
    champion, challenger = crown(GOOD), register(say(IMAGES, 0.33))
    bound = find_bound(check_against(champion, challenger, GATES))
    assert bound < 0
    assert failed(check_against(champion, challenger, set_gates(margin=-bound))) == []
    assert failed(check_against(champion, challenger, set_gates(margin=-bound - 1e-6))) == [NON_INFERIOR]


def test_a_challenger_within_the_margin_only_by_its_point_estimate_is_refused():
    few = draw_images(60)
    champion, challenger = say(few, 0.4), say(few, 0.4, seed=3)
    gain = compare(champion, challenger, few["patient_id"])
    assert gain["value"] > -GATES.margin > gain["low"]
    assert failed(check_against(crown(champion), register(challenger), GATES)) == [NON_INFERIOR]


def compare(champion: pd.DataFrame, challenger: pd.DataFrame, patients: Any) -> dict[Hashable, float]:
    """Return the difference in ROC AUC with its paired interval."""
    said = [table["finetuned"].to_numpy() for table in (champion, challenger)]
    labels = champion["actual"].to_numpy(np.uint8)
    return compare_models(labels, said[0], said[1], (0.5, 0.5), np.asarray(patients)).T["roc_auc"].to_dict()


def test_the_bound_is_that_of_the_paired_interval_over_patients():
    images = draw_images(200, of_each=5)
    champion, challenger = say(images, 0.5), say(images, 0.6, seed=1)
    found = find_bound(check_against(crown(champion), register(challenger), GATES))
    assert found == round(compare(champion, challenger, images["patient_id"])["low"], 6)
    assert found != round(compare(champion, challenger, np.arange(200))["low"], 6)


def test_a_challenger_that_says_the_same_is_not_inferior_by_any_margin():
    # Two intervals of their own would overlap by their whole width.
    assert failed(check_against(crown(WORSE), register(WORSE), set_gates(margin=0.0))) == []


def test_images_in_only_one_of_the_test_splits_take_no_part():
    other = draw_images(100, first=1000)
    wrong = other.assign(finetuned=1.0 - other["actual"])
    champion = crown(pd.concat([GOOD, other.assign(finetuned=0.5)]))
    alone = find_bound(check_against(champion, register(say(IMAGES, 0.4)), GATES))
    challenger = register(pd.concat([draw_images(50, first=2000), wrong.assign(sha256="f" + other["sha256"].str[1:]),
                                     say(IMAGES, 0.4)]))  # fmt: skip
    checks = check_against(champion, challenger, GATES)
    assert (checks[0], find_bound(checks)) == (Check(COMMON, 200, 50, True), alone)


def test_images_are_the_same_by_their_content_whatever_they_are_called():
    moved = GOOD.assign(path="elsewhere/" + GOOD["path"]).sample(frac=1, random_state=1)
    common = find_common_images(register(GOOD), register(moved)).sort_values("sha256")
    said = [common[f"finetuned_{name}"].tolist() for name in ("champion", "challenger")]
    assert said == [GOOD["finetuned"].tolist()] * 2


def test_a_image_that_a_split_holds_twice_counts_once():
    twice = pd.concat([GOOD, GOOD.assign(path="copy/" + GOOD["path"])])
    assert len(find_common_images(register(twice), register(twice))) == 200


@pytest.mark.parametrize("common, passed", [(0, False), (49, False), (50, True)])
def test_too_few_common_images_are_refused_and_said(common: int, passed: bool):
    crown(GOOD)
    checks = check_against(find_version(1), register(say(draw_images(200, first=200 - common), 0.3)), GATES)
    assert checks[0] == Check(COMMON, common, 50, passed)
    assert (COMMON in failed(checks)) != passed
    assert any(check.what == NON_INFERIOR for check in checks) == passed


def test_common_images_of_one_class_only_are_refused_and_said():
    champion = crown(GOOD[GOOD["actual"] == 1])
    checks = check_against(champion, register(GOOD), GATES)
    assert checks == [Check(COMMON, 100, 50, True), Check("classes among these images", 1, 2, False)]


def test_a_model_of_synthetic_images_never_replaces_one_of_real_images():
    crown(WORSE)
    outcome, checks = consider(register(GOOD, synthetic="True"), GATES)
    assert failed(checks) == ["trained on images that are"]
    assert (outcome, find_champion()) == ("version 2 stays challenger, champion is version 1", 1)


def test_a_model_of_real_images_replaces_one_of_synthetic_images_without_a_image_in_common():
    crown(GOOD, synthetic="True")
    outcome, checks = consider(register(say(draw_images(first=1000), 0.3)), GATES)
    assert (outcome, find_champion()) == ("version 2 is the new champion", 2)
    assert Check("trained on images that are", "real", "synthetic", True) in checks


def test_a_model_of_real_images_below_a_floor_does_not():
    crown(GOOD, synthetic="True")
    assert failed(consider(register(GOOD, test_specificity="0.1"), GATES)[1]) == ["specificity at least"]
    assert find_champion() == 1


def test_models_of_synthetic_images_are_compared_with_each_other():
    crown(GOOD, synthetic="True")
    assert failed(consider(register(WORSE, synthetic="True"), GATES)[1]) == [NON_INFERIOR]


@pytest.mark.parametrize("ours, theirs, refused", [(3, 0, True), (0, 3, False), (3, 3, False), (0, 0, False)])
def test_a_split_that_lets_patients_cross_never_replaces_one_that_does_not(ours: int, theirs: int, refused: bool):
    champion = crown(WORSE, crossing_patients=str(theirs))
    checks = check_against(champion, register(GOOD, crossing_patients=str(ours)), GATES)
    assert failed(checks) == (["patients on two sides of its split, at most"] if refused else [])


def test_a_champion_whose_predictions_nobody_kept_is_no_traceback_but_a_refusal():
    mlflow.MlflowClient().create_model_version(MODEL_NAME, "file:nowhere", tags={"test_roc_auc": "0.9"})
    promote("1", None, "", {}, "Ada")
    outcome, checks = consider(register(GOOD), GATES)
    assert outcome == "version 2 stays challenger, champion is version 1"
    assert failed(checks) == ["predictions stored with the champion"]


def test_a_version_is_judged_by_its_floors_and_against_the_champion():
    champion, challenger = crown(WORSE), register(GOOD)
    against = check_against(champion, challenger, GATES)
    assert judge(challenger, champion, GATES) == check_floors(challenger, GATES) + against
    assert judge(challenger, None, GATES) == check_floors(challenger, GATES)


def test_where_promotion_is_not_allowed_a_version_that_passes_stays_challenger_until_it_is(
    monkeypatch: pytest.MonkeyPatch,
):
    version = register(GOOD)
    monkeypatch.setenv("PNEUMONIA_PROMOTE", "false")
    outcome, checks = consider(version, GATES)
    assert outcome == "version 1 stays challenger; it passed all gates, but PNEUMONIA_PROMOTE is false"
    assert failed(checks) == [] and find_champion() is None
    monkeypatch.setenv("PNEUMONIA_PROMOTE", "")
    assert consider(find_version(1), GATES)[0] == "version 1 is the new champion"


def test_a_promotion_that_is_neither_allowed_nor_forbidden_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PNEUMONIA_PROMOTE", "yes")
    with pytest.raises(InputError, match="PNEUMONIA_PROMOTE is 'yes'"):
        consider(register(GOOD), GATES)


def test_what_was_checked_is_kept_with_the_version_and_in_the_audit_trail():
    _, checks = consider(register(GOOD), GATES)
    assert read_checks(find_version(1)) == checks
    record = read_audit()[-1]
    assert (record["by"], record["reason"], record["forced"]) == ("the pipeline", "passed all gates", False)
    assert record["evidence"] == {check.what: [check.value, check.bound, check.passed] for check in checks}
    assert json.loads(json.dumps(record["evidence"])) == record["evidence"]


def test_a_version_that_was_never_judged_has_no_checks():
    assert read_checks(register(GOOD)) == []


def test_a_decision_on_the_same_evidence_is_not_taken_again():
    crown(GOOD)
    _, checks = consider(register(WORSE), GATES)
    shutil.rmtree(Path.cwd() / Path(str(find_version(2).source)).name)  # it could not be
    again = consider(find_version(2), GATES)
    assert again == ("everything is up to date, version 2 stays challenger, champion is version 1", checks)


def test_it_is_taken_again_when_the_gates_changed():
    crown(GOOD)
    consider(register(WORSE), GATES)
    outcome, checks = consider(find_version(2), set_gates(margin=0.5))
    assert (outcome, failed(checks), find_champion()) == ("version 2 is the new champion", [], 2)
    assert read_checks(find_version(2)) == checks


def test_it_is_taken_again_when_the_champion_changed():
    crown(GOOD)
    consider(register(WORSE), GATES)
    crown(say(IMAGES, 2.0))
    assert consider(find_version(2), GATES)[0] == "version 2 is the new champion"


def test_the_champion_is_up_to_date_when_it_is_considered_again():
    _, checks = consider(register(GOOD), GATES)
    assert consider(find_version(1), GATES) == ("everything is up to date, version 1 is the champion", checks)
    assert len(read_audit()) == 1


def test_who_was_rolled_back_is_not_promoted_again_by_the_next_run_whatever_else_changed():
    crown(WORSE)
    consider(register(GOOD), GATES)
    rollback("misses effusions", "Ada")
    for gates in (GATES, GATES, set_gates(margin=0.5)):
        outcome, checks = consider(find_version(2), gates)
        assert failed(checks) == ["rolled back since it was champion"]
        assert "version 2 stays challenger, champion is version 1" in outcome
    assert find_champion() == 1


def test_who_was_promoted_by_hand_after_a_rollback_is_considered_again():
    crown(WORSE)
    consider(register(GOOD), GATES)
    rollback("misses effusions", "Ada")
    promote("2", "1", "it does not", {}, "Bob")
    crown(WORSE)
    assert consider(find_version(2), GATES)[0] == "version 2 is the new champion"


def test_who_became_champion_by_a_rollback_was_not_rolled_back():
    crown(GOOD)
    crown(WORSE)
    rollback("worse", "Ada")
    mlflow.MlflowClient().delete_registered_model_alias(MODEL_NAME, "champion")
    assert consider(find_version(1), GATES)[0] == "version 1 is the new champion"


def test_a_challenger_does_not_replace_a_champion_that_it_was_not_judged_against(monkeypatch: pytest.MonkeyPatch):
    crown(WORSE)
    challenger, real = register(GOOD), gate.judge

    def judge_slowly(*arguments: Any) -> list[Check]:
        checks = real(*arguments)
        crown(GOOD)  # meanwhile, by somebody else
        return checks

    monkeypatch.setattr(gate, "judge", judge_slowly)
    with pytest.raises(PromotionRefusedError, match="another promotion came first: version 3 by Ada"):
        consider(challenger, GATES)
    monkeypatch.undo()
    assert find_champion() == 3
    assert read_checks(find_version(2)) == []  # so the next run judges it
