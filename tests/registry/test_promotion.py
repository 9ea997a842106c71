"""The alias champion moves forward and back, with who and why on record, in a real MLflow store."""

import getpass
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import mlflow
import pytest
from stores import restore, working_in
from versions import find_champion

from pneumonia.core.errors import InputError
from pneumonia.registry.audit import LIMIT, find_promoter, read_audit, read_trail
from pneumonia.registry.lock import PromotionRefusedError
from pneumonia.registry.promotion import promote, rollback
from pneumonia.registry.versions import MODEL_NAME, find_alias
from pneumonia.tracking.connection import connect


@pytest.fixture(autouse=True)
def store(registered: Path, home: Path) -> Iterator[Path]:
    with working_in(home, registered) as store:
        yield store


@pytest.fixture(scope="module")
def crowned(registered: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store in which version 2 became champion after version 1."""
    with working_in(tmp_path_factory.mktemp("crowned"), registered) as store:
        crown("1", "2")
        return store


@pytest.fixture
def two(store: Path, crowned: Path) -> None:
    """Work in such a store."""
    restore(crowned, store)


def crown(*versions: str) -> None:
    """Promote versions one after the other."""
    for version in versions:
        promote(version, find_champion(), f"{version} is better", {}, "Ada")


def set_champion(version: str) -> None:
    """Move the alias by hand."""
    mlflow.MlflowClient().set_registered_model_alias(MODEL_NAME, "champion", version)


def list_models() -> list[str]:
    return [model.name for model in mlflow.MlflowClient().search_registered_models()]


def test_a_promotion_moves_the_alias_and_records_who_and_why():
    crown("1")
    before = datetime.now(UTC).replace(microsecond=0)
    promote("3", "1", "higher sensitivity", {"roc_auc": [0.98, 0.97]}, "Ada Lovelace", forced=True)
    record = read_audit()[-1]
    assert before <= datetime.fromisoformat(record.pop("at")) <= before + timedelta(minutes=1)
    assert record == {
        "action": "promote", "version": "3", "former": "1", "by": "Ada Lovelace", "reason": "higher sensitivity",
        "forced": True, "evidence": {"roc_auc": [0.98, 0.97]}, "took_place": True,
    }  # fmt: skip
    assert (find_champion(), list_models()) == ("3", [MODEL_NAME])


@pytest.mark.usefixtures("two")
def test_the_trail_is_stored_as_numbered_tags_of_the_model():
    tags = mlflow.MlflowClient().get_registered_model(MODEL_NAME).tags
    assert sorted(tags) == ["audit.0001", "audit.0002"]
    assert "took_place" not in json.loads(tags["audit.0002"])


def test_the_trail_stays_in_order_beyond_four_digits():
    crown("1")
    client = mlflow.MlflowClient()
    tag = client.get_registered_model(MODEL_NAME).tags["audit.0001"]
    client.set_registered_model_tag(MODEL_NAME, "audit.9999", tag)
    crown("2", "3")
    assert [record["version"] for record in read_audit()] == ["1", "1", "2", "3"]


@pytest.mark.parametrize("tag", ["approved", "[]", '{"by": "Ada"}'])
def test_a_record_that_somebody_overwrote_is_an_error_in_three_parts(tag: str):
    mlflow.MlflowClient().set_registered_model_tag(MODEL_NAME, "audit.0001", tag)
    with pytest.raises(InputError, match=r"(?s)The tag 'audit\.0001' of \S+ is no JSON of ours: .*Expected.*Remedy"):
        read_audit()


def test_a_store_without_a_model_has_no_champion_no_trail_and_no_lineage():
    connect()
    mlflow.MlflowClient().delete_registered_model(MODEL_NAME)
    assert (find_champion(), read_audit(), read_trail().lineage) == (None, [], [])


def test_a_version_number_may_be_an_integer_as_mlflow_returns_it():
    crown("1")
    champion = find_alias("champion")
    assert champion
    promote("2", champion.version, "better", {}, "Ada")  # pyright: ignore[reportArgumentType]
    assert read_audit()[-1]["former"] == "1"


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize("expected", ["1", None])
def test_a_version_judged_against_a_former_champion_is_refused_and_told_who_came_first(expected: str | None):
    at = read_audit()[-1]["at"]
    with pytest.raises(PromotionRefusedError, match=f"first: version 2 by Ada at {at}".replace("+", r"\+")) as refused:
        promote("3", expected, "better", {}, "Bob")
    assert ("Expected: version 1 as champion" if expected else "Expected: no champion yet") in str(refused.value)
    assert "Remedy: judge it against the present champion: dvc repro" in str(refused.value)
    assert (find_champion(), len(read_audit()), list_models()) == ("2", 2, [MODEL_NAME])


@pytest.mark.usefixtures("two")
def test_a_champion_set_by_hand_is_attributed_to_nobody():
    set_champion("4")
    with pytest.raises(PromotionRefusedError, match="version 4 by hand"):
        promote("3", "2", "better", {}, "Bob")


@pytest.mark.usefixtures("two")
def test_a_forced_promotion_and_a_rollback_need_a_reason():
    with pytest.raises(InputError, match="no reason"):
        promote("3", "2", "", {}, "Ada", forced=True)
    with pytest.raises(InputError, match="no reason"):
        rollback("  \n", "Ada")
    promote("3", "2", "", {}, "Ada")
    assert len(read_audit()) == 3


@pytest.mark.parametrize(
    "version, evidence, what",
    [("1", {}, "champion already"), ("9", {}, "no version 9"), ("latest", {}, "no version latest"),
     ("2", {"images": "x" * LIMIT}, "at most 5000")],
)  # fmt: skip
def test_an_impossible_promotion_leaves_no_record(version: str, evidence: dict[str, str], what: str):
    crown("1")
    with pytest.raises(InputError, match=what):
        promote(version, "1", "better", evidence, "Ada")
    assert (find_champion(), len(read_audit()), list_models()) == ("1", 1, [MODEL_NAME])


def test_a_record_may_be_as_long_as_a_tag():
    promote("1", None, "better", evidence := {"images": "x" * (LIMIT - 200)}, "Ada")
    assert read_audit()[0]["evidence"] == evidence


@pytest.mark.usefixtures("two")
def test_a_rollback_restores_the_previous_champion_and_is_recorded():
    rollback("2 misses effusions", "Bob")
    record = read_audit()[-1]
    assert find_champion() == "1"
    assert [record[field] for field in ("action", "version", "former", "by", "reason", "forced", "evidence")] == [
        "rollback", "1", "2", "Bob", "2 misses effusions", False, {}
    ]  # fmt: skip


@pytest.mark.usefixtures("two")
def test_a_second_rollback_goes_further_back():
    crown("3")
    assert [rollback("worse", "Bob")["version"] for _ in range(2)] == ["2", "1"]
    with pytest.raises(InputError, match="no former champion"):
        rollback("worse", "Bob")
    assert find_champion() == "1"


@pytest.mark.usefixtures("two")
def test_a_rollback_undoes_a_promotion_made_after_another_rollback():
    rollback("worse", "Bob")
    crown("3", "2")
    assert [rollback("worse", "Bob")["version"] for _ in range(2)] == ["3", "1"]


@pytest.mark.usefixtures("two")
def test_a_version_may_be_champion_more_than_once():
    crown("1")
    assert [rollback("worse", "Bob")["version"] for _ in range(2)] == ["2", "1"]


def test_without_a_champion_there_is_nothing_to_roll_back():
    with pytest.raises(InputError, match="no former champion"):
        rollback("worse", "Bob")


@pytest.mark.usefixtures("two")
def test_a_deleted_champion_is_not_restored():
    mlflow.MlflowClient().delete_model_version(MODEL_NAME, "1")
    with pytest.raises(InputError, match=r"(?s)no version 1\..*not deleted.*registry promote"):
        rollback("worse", "Bob")
    assert (find_champion(), len(read_audit())) == ("2", 2)


@pytest.mark.usefixtures("two")
def test_a_rollback_undoes_a_champion_set_by_hand():
    set_champion("4")
    assert [rollback("worse", "Bob")["version"] for _ in range(2)] == ["2", "1"]


@pytest.mark.usefixtures("two")
def test_a_rollback_restores_a_champion_whose_alias_was_deleted():
    mlflow.MlflowClient().delete_registered_model_alias(MODEL_NAME, "champion")
    assert [rollback("lost", "Bob")["version"] for _ in range(2)] == ["2", "1"]


@pytest.mark.usefixtures("two")
def test_the_lineage_holds_each_champion_that_was_not_rolled_back_the_oldest_first():
    assert read_trail().lineage == ["1", "2"]
    rollback("misses effusions", "Bob")
    crown("3")
    assert read_trail().lineage == ["1", "3"]
    set_champion("4")
    assert read_trail().lineage == ["1", "3", "4"]
    crown("1")
    assert read_trail().lineage == ["1", "3", "4"]


def test_the_promoter_is_named_by_the_environment_or_by_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["git", "config", "user.name", "Grace Hopper"], check=True)
    assert find_promoter() == "Grace Hopper"
    monkeypatch.setenv("PNEUMONIA_PROMOTER", "retraining, started by Ada")
    assert find_promoter() == "retraining, started by Ada"


@pytest.mark.parametrize("installed", [True, False])
def test_without_a_git_name_the_promoter_is_the_account(installed: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    monkeypatch.setenv("LOGNAME", "worker")
    if not installed:
        monkeypatch.setenv("PATH", "")
    assert find_promoter() == "worker"


def test_a_promoter_without_any_name_is_told_how_to_set_one(monkeypatch: pytest.MonkeyPatch):
    def find_none() -> str:
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(getpass, "getuser", find_none)
    with pytest.raises(InputError, match=r'Remedy: git config user\.name "\.\.\."'):
        find_promoter()


class Broken(BaseHTTPRequestHandler):
    """A tracking server that knows the experiment and fails at everything else."""

    def do_GET(self) -> None:
        known = "/experiments/get-by-name" in self.path
        self.send_response(200 if known else 503)
        self.end_headers()
        self.wfile.write(b'{"experiment": {"experiment_id": "1", "name": "pneumonia"}}' if known else b"down")

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Print nothing."""


@pytest.mark.parametrize(
    "call, doing",
    [(lambda: promote("1", None, "", {}, "Ada"), "promoting a version"),
     (lambda: rollback("worse", "Ada"), "rolling back the champion"),
     (lambda: find_alias("champion"), "reading the registry"),
     (read_audit, "reading the registry")],
)  # fmt: skip
def test_a_failing_server_is_an_error_that_reads_as_a_sentence(
    call: Callable[[], Any], doing: str, monkeypatch: pytest.MonkeyPatch
):
    with ThreadingHTTPServer(("127.0.0.1", 0), Broken) as server:
        threading.Thread(target=server.serve_forever).start()
        address = f"http://127.0.0.1:{server.server_port}"
        mlflow.set_tracking_uri(None)  # pyright: ignore[reportArgumentType]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        sentence = rf"The MLflow server {address} cannot be reached while {doing}: [^\n]+\.\n  Expected: "
        with pytest.raises(InputError, match=sentence):
            call()
        server.shutdown()
