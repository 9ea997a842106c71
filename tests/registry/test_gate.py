"""A challenger becomes champion if it holds the floors and exceeds the champion on images neither was trained on."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from stores import working_in
from versions import GATES, GOOD, IMAGES, WORSE, crown, find_champion, find_version, predict, register

from pneumonia.core.errors import InputError
from pneumonia.core.params import Gates
from pneumonia.registry import gate
from pneumonia.registry.audit import describe_freeze, read_audit
from pneumonia.registry.checks import Check
from pneumonia.registry.evidence import find_evidence
from pneumonia.registry.gate import consider, may_register, read_checks
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
def store(empty: Path, home: Path) -> Iterator[Path]:
    with working_in(home, empty, PNEUMONIA_PROMOTER="the pipeline") as store:
        yield store


def set_gates(**gates: Any) -> Gates:
    return GATES.model_copy(update=gates)


def failed(found: list[Check]) -> list[str]:
    return [check.what for check in found if not check.passed]


@pytest.mark.parametrize("tag", ["test_roc_auc", "test_threshold", "crossing_patients"])
def test_a_number_that_somebody_overwrote_is_an_error_in_three_parts(tag: str):
    with pytest.raises(InputError, match=rf"(?s)The tag '{tag}' of version 1 is no number: 'high'.*Expected.*Remedy"):
        consider(register(GOOD, test_note="fine", **{tag: "high"}), GATES)


def test_a_version_without_a_threshold_cannot_be_compared():
    champion = crown(GOOD)
    mlflow.MlflowClient().delete_model_version_tag(MODEL_NAME, champion.version, "test_threshold")
    assert failed(consider(register(GOOD), GATES)[1]) == ["predictions stored with the champion"]


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


def test_a_clearly_worse_challenger_does_not():
    crown(GOOD)
    outcome, found = consider(register(WORSE), GATES)
    assert outcome == "version 2 stays challenger, champion is version 1"
    assert failed(found) == [*NON_INFERIOR.values(), GAIN]
    assert find_champion() == "1"


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


@pytest.mark.parametrize("why", ["rolled back", "deleted"])
def test_an_earlier_version_that_is_gone_sets_no_bar(why: str):
    crown(WORSE)
    crown(predict(IMAGES, 0.1))
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


@pytest.mark.parametrize("tag", ["passed", '{"passed": true}', '[{"what": "roc_auc"}]'])
def test_checks_that_somebody_overwrote_are_an_error_in_three_parts(tag: str):
    version = register(GOOD)
    version.tags["checks"] = tag
    with pytest.raises(InputError, match=r"(?s)The tag 'checks' of version 1 is no JSON of ours: .*Expected.*Remedy"):
        read_checks(version)


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


def test_a_rollback_while_a_version_is_judged_stands_against_it(monkeypatch: pytest.MonkeyPatch):
    crown(WORSE)
    challenger, real = register(GOOD), gate.judge

    def judge_slowly(*arguments: Any) -> list[Check]:
        crown(predict(IMAGES, 0.5))  # meanwhile, by somebody else; the champion is the same again afterwards
        rollback("misses effusions", "Ada")
        return real(*arguments)

    monkeypatch.setattr(gate, "judge", judge_slowly)
    with pytest.raises(PromotionRefusedError, match=r"(?s)promotion frozen by a rollback.*Remedy: .*resume"):
        consider(challenger, GATES)
    assert (find_champion(), len(read_audit())) == ("1", 3)


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
    assert find_version(2).tags["checked"] == ""  # so the next run judges it


def test_what_a_version_is_judged_by_stands_in_its_tags():
    known = find_evidence(register(GOOD, synthetic="True", crossing_patients="3", test_note="fine"), "it")
    assert (known.synthetic, known.crossing_patients, known.split) == (True, 3, "patient 0.8/0.1/0.1 seed 123")
    assert known.metrics["threshold"] == 0.5 and "note" not in known.metrics
    assert find_evidence(register(GOOD, crossing_patients="unknown"), "it").crossing_patients is None
