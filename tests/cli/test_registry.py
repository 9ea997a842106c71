"""Who asks the registry gets an answer, a deed that is on record, or an error that says what to do."""

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
from versions import GATES, GOOD, WORSE, crown, find_champion, find_version, register

from pneumonia.cli.main import main
from pneumonia.core.files import sha256_bytes
from pneumonia.registry.gate import consider
from pneumonia.registry.promotion import MODEL_NAME, find_alias, promote, read_audit

Command = Callable[..., str]
NAMED = {"data_source": "kaggle", "split": "patient"}


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with version 1, champion; 2, as good; and 3, worse and below a floor, which the gate refused."""
    with working_in(tmp_path_factory.mktemp("registered")) as store:
        mlflow.MlflowClient().create_registered_model(MODEL_NAME, description="Pneumonia.")
        crown(GOOD, **NAMED)
        register(GOOD, **NAMED)
        consider(register(WORSE, **NAMED, test_roc_auc="0.7"), GATES)
        mlflow.MlflowClient().set_registered_model_alias(MODEL_NAME, "challenger", "3")
        return store


@pytest.fixture(autouse=True)
def project(registered: Path, tmp_path: Path) -> Iterator[Path]:
    """Work in a project with a copy of that store and the parameters of its gate."""
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
    """Run a command that ends with an error in three parts, and return it."""
    with pytest.raises(SystemExit) as ended:
        command(*arguments)
    message = str(ended.value)  # Python prints text and leaves with exit status 1
    assert re.fullmatch(r"\S.*\n  Expected: \S.*\n  Remedy: \S.*", message), message
    return message


def keep_digests(version: ModelVersion) -> Path:
    """Add digests to a version that holds predictions only, and return the file that holds these."""
    digests = {"artifacts/predictions.csv": version.tags["package_sha256"], "code": sha256_bytes(b"")}
    mlflow.MlflowClient().set_model_version_tag(MODEL_NAME, version.version, "digests", json.dumps(digests))
    return Path(str(version.source).removeprefix("file://")) / "artifacts/predictions.csv"


def test_a_list_has_a_row_for_each_version_the_latest_first_with_its_alias(command: Command):
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


def test_a_version_is_shown_with_tags_and_what_it_was_asked_for(command: Command):
    shown = command("show", "3")
    assert shown.startswith("pneumonia-classifier, version 3.\n\n")
    assert re.search(r"^data_source +kaggle$", shown, re.MULTILINE)
    assert re.search(r"^ +roc_auc at least +0.70* +0.80* +False$", shown, re.MULTILINE)
    assert re.search(r"lower bound, at least +-0\.\d+ +-0\.02 +False$", shown, re.MULTILINE)
    assert "{" not in shown  # as checks and digests are kept


def test_the_champion_is_shown_when_no_version_is_named_with_who_promoted_it(command: Command):
    shown = command("show")
    assert shown.startswith("pneumonia-classifier, version 1.")
    assert re.search(r"\d\d:\d\d:\d\d\+00:00 promote to version 1 from none, by Ada\.$", shown.strip())
    assert "Gates:" not in shown  # it was never asked


def test_a_version_is_shown_with_every_move_that_concerned_it_and_no_other(command: Command):
    promote("2", "1", "finds more", {}, "Ada")
    command("rollback", "--reason", "Misses effusions.")
    assert "to version" not in command("show", "3")
    for number in ("1", "2"):
        shown = command("show", number)
        assert "promote to version 2 from 1, by Ada: finds more.\n" in shown
        assert "rollback to version 1 from 2, by Grace Hopper: Misses effusions.\n" in shown


def test_a_move_that_a_killed_process_did_not_make_is_shown_as_such(command: Command):
    promote("2", "1", "finds more", {}, "Ada")
    mlflow.MlflowClient().set_registered_model_alias(MODEL_NAME, "champion", "1")  # what is left then
    assert "by Ada: finds more. It did not take place." in command("show", "2")


@pytest.mark.parametrize("action", ["show", "promote", "verify"])
def test_a_version_that_is_not_there_is_an_error(command: Command, action: str):
    assert "has no version '9'" in refuse(command, action, "9")


def test_a_version_that_passes_is_promoted_and_on_record(command: Command):
    assert command("promote", "2", "--reason", "newer").endswith("Version 2 is the champion.\n")
    record = read_audit()[-1]
    assert (find_champion(), record["by"], record["reason"], record["forced"]) == (2, "Grace Hopper", "newer", False)
    assert record["evidence"]["roc_auc at least"] == [0.9, 0.8, True]


def test_a_version_may_be_promoted_by_its_alias(command: Command):
    mlflow.MlflowClient().set_registered_model_alias(MODEL_NAME, "challenger", "2")
    command("promote", "challenger")
    assert find_champion() == 2


def test_a_version_that_fails_is_not_promoted_and_the_process_says_why_and_fails(project: Path):
    done = run(sys.executable, "-m", "pneumonia", "registry", "promote", "3", "--reason", "newer",
               cwd=project, check=False, PYTHONPATH=str(ROOT))  # fmt: skip
    assert done.returncode == 1
    assert re.search(r"roc_auc at least +0.70* +0.80* +False", done.stdout)
    assert done.stderr == (
        "Version 3 of pneumonia-classifier did not pass: roc_auc at least; "
        "roc_auc above the champion's, lower bound, at least.\n"
        "  Expected: all gates passed\n"
        '  Remedy: leave it, or: python -m pneumonia registry promote 3 --force --reason "..."\n'
    )
    assert (find_champion(), len(read_audit())) == (1, 1)


@pytest.mark.parametrize("reason", [[], ["--reason", " "]])
def test_force_without_a_reason_is_refused(command: Command, reason: list[str]):
    assert "has no reason" in refuse(command, "promote", "3", "--force", *reason)
    assert (find_champion(), len(read_audit())) == (1, 1)


def test_force_with_a_reason_promotes_and_is_marked_for_good(command: Command):
    said = command("promote", "3", "--force", "--reason", "the only one for portable devices")
    assert said.endswith("Version 3 is the champion by force.\n")
    record = read_audit()[-1]
    assert (find_champion(), record["forced"]) == (3, True)
    assert record["evidence"]["roc_auc at least"] == [0.7, 0.8, False]
    assert (
        "promote by force, in spite of: roc_auc at least, roc_auc above the champion's, lower bound, at least, "
        "to version 3 from 1, by Grace Hopper: the only one for portable devices."
    ) in command("show", "3")


def test_force_that_was_not_needed_is_not_marked(command: Command):
    assert command("promote", "2", "--force").endswith("Version 2 is the champion.\n")
    assert not read_audit()[-1]["forced"]


def test_the_champion_cannot_be_promoted(command: Command):
    assert "champion already" in refuse(command, "promote", "champion")


def test_a_rollback_restores_the_former_champion(command: Command):
    command("promote", "2")
    said = command("rollback", "--reason", "misses effusions")
    assert said == "Version 1 is the champion again, version 2 no longer.\n"
    record = read_audit()[-1]
    assert (find_champion(), record["action"], record["reason"]) == (1, "rollback", "misses effusions")


def test_a_rollback_without_a_former_champion_is_refused(command: Command):
    assert "no former champion" in refuse(command, "rollback", "--reason", "worse")


def test_a_rollback_asks_for_a_reason(command: Command, capsys: pytest.CaptureFixture[str]):
    command("promote", "2")
    with pytest.raises(SystemExit) as ended:
        command("rollback")
    assert ended.value.code == 2
    assert "required: --reason" in capsys.readouterr().err
    assert "has no reason" in refuse(command, "rollback", "--reason", "")
    assert find_champion() == 2


def test_a_version_that_is_what_was_registered_is_verified(command: Command):
    keep_digests(find_version(2))
    assert command("verify", "2") == "Version 2 is what was registered.\n"


def test_a_champion_that_was_changed_is_an_error_that_names_the_file_and_the_way_back(command: Command):
    version = crown(GOOD)
    with keep_digests(version).open("a") as file:
        file.write("\n")
    message = refuse(command, "verify")
    assert "Version 4 of pneumonia-classifier is not what was registered: artifacts/predictions.csv changed." in message
    assert "registry rollback" in message


def test_a_rollback_is_no_remedy_for_another_version_that_was_changed(command: Command):
    keep_digests(register(GOOD)).unlink()
    message = refuse(command, "verify", "4")
    assert "artifacts/predictions.csv changed" in message
    assert "rollback" not in message


def test_a_version_without_digests_cannot_be_verified(command: Command):
    assert "holds no digests" in refuse(command, "verify", "2")


def test_the_process_fails_when_a_version_was_changed(project: Path):
    keep_digests(register(GOOD)).write_text("")
    done = run(sys.executable, "-m", "pneumonia", "registry", "verify", "4", cwd=project, check=False,
               PYTHONPATH=str(ROOT))  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert "artifacts/predictions.csv changed.\n  Expected: " in done.stderr


def test_without_a_champion_there_is_none_to_verify(command: Command):
    mlflow.MlflowClient().delete_registered_model_alias(MODEL_NAME, "champion")
    assert find_alias("champion") is None
    assert "has no version 'champion'" in refuse(command, "verify")


def test_commands_start_without_the_libraries_that_few_of_them_need():
    code = "import sys, pneumonia.cli.main; print([m for m in ('keras', 'sklearn') if m in sys.modules])"
    assert run(sys.executable, "-c", code, cwd=ROOT).stdout == "[]\n"
