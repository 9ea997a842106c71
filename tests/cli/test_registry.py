"""The registry commands print what is known, move aliases on record, and explain what they refuse."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest
import yaml
from mlflow.entities.model_registry import ModelVersion
from projects import ROOT, run
from stores import working_in
from versions import GATES, GOOD, IMAGES, WORSE, crown, find_champion, find_version, predict, register

from pneumonia.cli.main import main
from pneumonia.core.files import sha256_bytes
from pneumonia.registry.audit import read_audit
from pneumonia.registry.gate import consider
from pneumonia.registry.promotion import promote
from pneumonia.registry.versions import MODEL_NAME, find_alias

Command = Callable[..., str]
NAMED = {"data_source": "kaggle", "split": "patient"}
METRICS = ("roc_auc", "sensitivity", "specificity")
FAILED = [  # by version 3
    "roc_auc at least", *(f"{metric} minus the champion's, lower bound, at least" for metric in METRICS),
    "roc_auc minus the champion's, above",
]  # fmt: skip


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with version 1, champion; 2, better; and 3, worse, below a floor and refused by the gate."""
    with working_in(tmp_path_factory.mktemp("registered")) as store:
        mlflow.MlflowClient().create_registered_model(MODEL_NAME, description="Pneumonia.")
        crown(GOOD, **NAMED)
        register(predict(IMAGES, 0.2), **NAMED)
        consider(register(WORSE, **NAMED, test_roc_auc="0.7"), GATES)
        mlflow.MlflowClient().set_registered_model_alias(MODEL_NAME, "challenger", "3")
        return store


@pytest.fixture(autouse=True)
def project(registered: Path, tmp_path: Path) -> Iterator[Path]:
    """Work in a project with a copy of that store and the gates in its parameters."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["register"]["gates"] = GATES.model_dump()
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    with working_in(tmp_path, registered, PNEUMONIA_PROMOTER="Grace Hopper"):
        yield tmp_path


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Return a function that runs `python -m pneumonia registry ...` without a process of its own."""

    def call(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["pneumonia", "registry", *arguments])
        main()
        return capsys.readouterr().out

    return call


def refuse(command: Command, *arguments: str) -> str:
    """Run a command that ends with an error in three parts, and return the error."""
    with pytest.raises(SystemExit) as ended:
        command(*arguments)
    message = str(ended.value)  # Python prints it and exits with status 1
    assert re.fullmatch(r"\S.*\n  Expected: \S.*\n  Remedy: \S.*", message), message
    return message


def keep_digests(version: ModelVersion) -> Path:
    """Add digests to a version that holds nothing but predictions, and return the file of these."""
    digests = {"artifacts/predictions.csv": version.tags["package_sha256"], "code": sha256_bytes(b"")}
    mlflow.MlflowClient().set_model_version_tag(MODEL_NAME, version.version, "digests", json.dumps(digests))
    return Path(str(version.source).removeprefix("file://")) / "artifacts/predictions.csv"


def test_list_prints_a_row_for_each_version_the_latest_first_with_its_alias(command: Command):
    head, *rows = [line.split() for line in command("list").splitlines()]
    assert head == ["version", "alias", "recipe", "data_source", "split", "roc_auc", "sensitivity", "specificity",
                    "threshold"]  # fmt: skip
    rest = ["default", "kaggle", "patient"]
    assert rows == [
        ["3", "challenger", *rest, "0.7", "0.9", "0.9", "0.5"],
        ["2", *rest, "0.9", "0.9", "0.9", "0.5"],
        ["1", "champion", *rest, "0.9", "0.9", "0.9", "0.5"],
    ]


def test_a_version_may_have_both_aliases(command: Command):
    mlflow.MlflowClient().set_registered_model_alias(MODEL_NAME, "challenger", "1")
    assert "champion challenger" in command("list")


def test_an_empty_registry_says_how_to_fill_it(command: Command):
    mlflow.MlflowClient().delete_registered_model(MODEL_NAME)
    assert command("list") == "pneumonia-classifier has no version. Run the pipeline: make repro\n"


def test_show_prints_the_tags_and_checks_of_a_version(command: Command):
    shown = command("show", "3")
    assert shown.startswith("pneumonia-classifier, version 3.\n\n")
    assert re.search(r"^data_source +kaggle$", shown, re.MULTILINE)
    assert re.search(r"^ +roc_auc at least +0.70* +0.80* +False$", shown, re.MULTILINE)
    assert re.search(r"roc_auc minus the champion's, lower bound, at least +-0\.\d+ +-0\.020* +False\n", shown)
    assert "{" not in shown  # how checks and digests are stored


def test_show_without_a_version_prints_the_champion_and_who_promoted_it(command: Command):
    shown = command("show")
    assert shown.startswith("pneumonia-classifier, version 1.")
    assert re.search(r"\d\d:\d\d:\d\d\+00:00 promote to version 1 from none, by Ada\.$", shown.strip())
    assert "Gates:" not in shown  # it was never judged


def test_show_prints_the_moves_that_concern_a_version_and_no_other(command: Command):
    promote("2", "1", "higher sensitivity", {}, "Ada")
    command("rollback", "--reason", "Misses effusions.")
    assert "to version" not in command("show", "3")
    for number in ("1", "2"):
        shown = command("show", number)
        assert "promote to version 2 from 1, by Ada: higher sensitivity.\n" in shown
        assert "rollback to version 1 from 2, by Grace Hopper: Misses effusions.\n" in shown


def test_show_tells_a_move_that_a_killed_process_did_not_complete(command: Command):
    promote("2", "1", "higher sensitivity", {}, "Ada")
    mlflow.MlflowClient().set_registered_model_alias(MODEL_NAME, "champion", "1")  # as a killed process leaves it
    assert "by Ada: higher sensitivity. It did not take place." in command("show", "2")


@pytest.mark.parametrize("action", ["show", "promote", "verify"])
def test_a_version_that_does_not_exist_is_an_error(command: Command, action: str):
    assert "has no version '9'" in refuse(command, action, "9")


def test_a_version_that_passes_is_promoted_and_recorded(command: Command):
    assert command("promote", "2", "--reason", "newer").endswith("Version 2 is the champion.\n")
    record = read_audit()[-1]
    assert (find_champion(), record["by"], record["reason"], record["forced"]) == ("2", "Grace Hopper", "newer", False)
    assert record["evidence"]["roc_auc at least"] == [0.9, 0.8, True]


def test_a_version_may_be_promoted_by_its_alias(command: Command):
    mlflow.MlflowClient().set_registered_model_alias(MODEL_NAME, "challenger", "2")
    command("promote", "challenger")
    assert find_champion() == "2"


def test_a_version_that_fails_is_not_promoted_and_the_process_exits_with_the_reason(project: Path):
    done = run(sys.executable, "-m", "pneumonia", "registry", "promote", "3", "--reason", "newer",
               cwd=project, check=False, PYTHONPATH=str(ROOT))  # fmt: skip
    assert done.returncode == 1
    assert re.search(r"roc_auc at least +0.70* +0.80* +False", done.stdout)
    assert done.stderr == (
        f"Version 3 of pneumonia-classifier did not pass: {'; '.join(FAILED)}.\n"
        "  Expected: all gates passed\n"
        "  Remedy: keep the champion, or overrule the gates: "
        'python -m pneumonia registry promote 3 --force --reason "..."\n'
    )
    assert (find_champion(), len(read_audit())) == ("1", 1)


@pytest.mark.parametrize("reason", [[], ["--reason", " "]])
def test_force_without_a_reason_is_refused(command: Command, reason: list[str]):
    assert "has no reason" in refuse(command, "promote", "3", "--force", *reason)
    assert (find_champion(), len(read_audit())) == ("1", 1)


def test_force_with_a_reason_promotes_and_is_recorded(command: Command):
    printed = command("promote", "3", "--force", "--reason", "the only one for portable devices")
    assert printed.endswith("Version 3 is the champion by force.\n")
    record = read_audit()[-1]
    assert (find_champion(), record["forced"]) == ("3", True)
    assert record["evidence"]["roc_auc at least"] == [0.7, 0.8, False]
    assert (
        f"promote by force, overruling: {', '.join(FAILED)}, "
        "to version 3 from 1, by Grace Hopper: the only one for portable devices."
    ) in command("show", "3")


def test_force_without_need_is_not_recorded_as_such(command: Command):
    assert command("promote", "2", "--force").endswith("Version 2 is the champion.\n")
    assert not read_audit()[-1]["forced"]


def test_the_champion_cannot_be_promoted(command: Command):
    assert "champion already" in refuse(command, "promote", "champion")


def test_a_rollback_restores_the_previous_champion(command: Command):
    command("promote", "2")
    printed = command("rollback", "--reason", "misses effusions")
    assert printed.startswith("Version 1 is the champion again, in place of version 2.\n")
    record = read_audit()[-1]
    assert (find_champion(), record["action"], record["reason"]) == ("1", "rollback", "misses effusions")


def test_a_freeze_is_told_wherever_one_looks_with_its_reason_and_how_to_lift_it(command: Command):
    for show in ("list", "show"):
        assert "frozen" not in command(show)
    command("promote", "2")
    told = [command("rollback", "--reason", "misses effusions"), command("list"), command("show")]
    for printed in told:
        assert "Automatic promotion is frozen: Grace Hopper rolled back version 2 at" in printed
        assert 'misses effusions. To lift this: python -m pneumonia registry resume --reason "..."' in printed


def test_the_status_after_a_run_tells_a_freeze_too(
    command: Command, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    command("promote", "2")
    command("rollback", "--reason", "misses effusions")
    (project / "reports").mkdir()
    (project / "reports" / "metrics.json").write_text('{"finetuned": {"roc_auc": 0.9}}')
    monkeypatch.setattr(sys, "argv", ["pneumonia", "status"])
    main()
    assert "Automatic promotion is frozen: Grace Hopper rolled back version 2" in capsys.readouterr().out


def test_a_freeze_is_lifted_with_a_reason_on_record(command: Command):
    command("promote", "2")
    command("rollback", "--reason", "misses effusions")
    assert "has no reason" in refuse(command, "resume", "--reason", " ")
    assert "become champion again" in command("resume", "--reason", "a wrong window.")
    assert "frozen" not in command("list")
    assert "resume with version 1, by Grace Hopper: a wrong window.\n" in command("show", "1")
    assert "not frozen" in refuse(command, "resume", "--reason", "again")


def test_a_promotion_by_hand_after_a_rollback_needs_a_reason_and_lifts_the_freeze(command: Command):
    command("promote", "2")
    command("rollback", "--reason", "misses effusions")
    assert "has no reason" in refuse(command, "promote", "2")
    command("promote", "2", "--reason", "it does not")
    assert "frozen" not in command("list")


def test_a_rollback_without_a_previous_champion_is_refused(command: Command):
    assert "no former champion" in refuse(command, "rollback", "--reason", "worse")


def test_a_rollback_needs_a_reason(command: Command, capsys: pytest.CaptureFixture[str]):
    command("promote", "2")
    with pytest.raises(SystemExit) as ended:
        command("rollback")
    assert ended.value.code == 2
    assert "required: --reason" in capsys.readouterr().err
    assert "has no reason" in refuse(command, "rollback", "--reason", "")
    assert find_champion() == "2"


def test_verify_accepts_an_unchanged_version(command: Command):
    keep_digests(find_version(2))
    assert command("verify", "2") == "Version 2 is what was registered.\n"


def test_verify_names_the_changed_file_of_a_champion_and_offers_a_rollback(
    command: Command, capsys: pytest.CaptureFixture[str]
):
    version = crown(GOOD)
    with keep_digests(version).open("a") as file:
        file.write("\n")
    message = refuse(command, "verify")
    assert "Version 4 of pneumonia-classifier is not what was registered: artifacts/predictions.csv changed." in message
    assert "registry rollback" in message
    assert capsys.readouterr().out == ""


def test_verify_offers_no_rollback_for_another_version(command: Command):
    keep_digests(register(GOOD)).unlink()
    message = refuse(command, "verify", "4")
    assert "has lost files: artifacts/predictions.csv missing." in message
    assert "changed" not in message
    assert "registry rollback" not in message


def test_a_version_without_digests_cannot_be_verified(command: Command):
    assert "holds no digests" in refuse(command, "verify", "2")


def test_verify_without_a_champion_is_an_error(command: Command):
    mlflow.MlflowClient().delete_registered_model_alias(MODEL_NAME, "champion")
    assert find_alias("champion") is None
    assert "has no version 'champion'" in refuse(command, "verify")


def test_commands_start_without_keras_and_scikit_learn():
    code = "import sys, pneumonia.cli.main; print([m for m in ('keras', 'sklearn') if m in sys.modules])"
    assert run(sys.executable, "-c", code, cwd=ROOT).stdout == "[]\n"
