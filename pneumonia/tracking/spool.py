"""Send a run to MLflow; what a store misses that does not answer is kept in mlruns/spool and sent later."""

import json
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import mlflow
from filelock import FileLock
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunData, RunInfo, RunTag
from mlflow.exceptions import MlflowException

from pneumonia.core.files import project_home
from pneumonia.tracking.address import find_server, find_store
from pneumonia.tracking.connection import connect
from pneumonia.tracking.failures import UnreachableError, reaching

KEY = "run_key"  # tag that identifies a run even if the server's answer, with the run's id, was lost
Entry = dict[str, Any]  # a part of a run as JSON, see `deliver`
T = TypeVar("T")


def read_clock() -> int:
    """Return the time as MLflow takes it, in ms."""
    return int(time.time() * 1000)


def open_run(experiment: str, opening: Entry) -> Run:
    """Return the run with the key of `opening`; create it from its name, start_time and tags if there is none."""
    client = mlflow.MlflowClient()
    query = f"tags.{KEY} = '{opening['tags'][KEY]}'"
    if found := client.search_runs([experiment], query, max_results=1):
        return found[0]
    return client.create_run(experiment, opening["start_time"], opening["tags"], opening["name"])


def deliver(run_id: str, entry: Entry, artifacts: Path | None = None) -> None:
    """Add an entry to a run. Adding it again changes nothing, as MLflow keeps equal points of a metric once.

    Args:
        run_id: of the run.
        entry: any of `metrics` (list of name, value, time in ms, step), `params`, `tags`, `inputs` (data set by split)
            and `end` (status, time in ms).
        artifacts: folder whose content is uploaded to the run.
    """
    client = mlflow.MlflowClient()
    client.log_batch(
        run_id,
        [Metric(*point) for point in entry.get("metrics", ())],
        [Param(*param) for param in entry.get("params", {}).items()],
        [RunTag(*tag) for tag in entry.get("tags", {}).items()],
    )
    if inputs := entry.get("inputs"):
        told = [DatasetInput(Dataset(**data), [InputTag("mlflow.data.context", name)]) for name, data in inputs.items()]
        try:
            client.log_inputs(run_id, told)
        except MlflowException as error:
            if error.get_http_status_code() != 400:
                raise
            client.log_inputs(run_id, told)  # another run logged the same data at the same moment
    if artifacts:
        client.log_artifacts(run_id, str(artifacts))
    if "end" in entry:
        client.set_terminated(run_id, *entry["end"])


class Recorder:
    """Sends one run to MLflow; once the store cannot be reached, writes the rest to a journal."""

    def __init__(self, opening: Entry, tolerant: bool) -> None:
        """Create a recorder without asking the store.

        Args:
            opening: see `open_run`; the tags hold KEY and the phase.
            tolerant: whether to continue without the store.
        """
        self.opening, self.tolerant, self.reached = opening, tolerant, True
        self.run = Run(RunInfo("", "", "", "RUNNING", opening["start_time"], None, "active"), RunData())
        self.folder = find_spool() / f".{opening['tags'][KEY]}"
        self.hand_over()  # what the same run left when it was killed

    def attempt(self, call: Callable[[], T]) -> T | None:
        """Return what `call` returns, or None from the first time on that the store cannot be reached."""
        if self.reached:
            try:
                with reaching("recording a run"):
                    return call()
            except UnreachableError as error:
                if not self.tolerant:
                    raise
                self.reached = False
                first = str(error).splitlines()[0]
                print(f"{first} Continuing; {find_spool()} keeps what it misses.", flush=True)
                self._write(self.opening | {"server": _find_receiver(begun=bool(self.run.info.run_id))})
        return None

    def record(self, entry: Entry, artifacts: Path | None = None) -> None:
        """Deliver an entry, or write it to the journal."""
        self.attempt(lambda: deliver(self.run.info.run_id, entry, artifacts))
        if not self.reached:
            self._write(entry)
            if artifacts:
                shutil.copytree(artifacts, self.folder / "artifacts", dirs_exist_ok=True)

    def _write(self, entry: Entry) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "journal.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def hand_over(self) -> None:
        """Hand the journal, if there is one, over to `send_spooled`."""
        if self.folder.exists():
            tags = self.opening["tags"]
            self.folder.rename(find_spool() / f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{tags['phase']}-{tags[KEY][:8]}")


def find_spool() -> Path:
    """Return the folder of journals, a folder each; the name of one being written starts with a dot."""
    return project_home() / "mlruns" / "spool"


def find_waiting() -> list[Path]:
    """Return the journals that wait to be sent, oldest first."""
    return sorted(find_spool().glob("[!.]*"))


def send_spooled() -> int:
    """Send all waiting journals that the present store may receive, and return their number.

    Raises:
        InputError: the store does not answer or refuses.
    """
    if not find_waiting():
        return 0
    experiment = connect()
    with FileLock(find_spool() / ".lock"):  # two processes at once could create a run twice
        return sum(_send(journal, experiment) for journal in find_waiting())


def _find_receiver(*, begun: bool) -> str:
    # A run that no server has begun goes to any server; what a file misses goes to that file.
    return find_store() if begun or not find_server() else ""


def _send(journal: Path, experiment: str) -> bool:
    path = journal / "journal.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    whole = [json.loads(line) for line in lines if line.endswith("\n")]  # a full disk may have truncated the last one
    if whole:
        opening, *entries = whole
        if opening["server"] not in (_find_receiver(begun=True), _find_receiver(begun=False)):
            place = f"the beginning of its run is in {opening['server']}" if opening["server"] else "it is for a server"
            print(f"{journal} is kept: {place}.", flush=True)
            return False
        with reaching(f"sending {journal}"):
            run_id = open_run(experiment, opening).info.run_id
            for entry in entries:
                deliver(run_id, entry)
            if (journal / "artifacts").exists():
                deliver(run_id, {}, journal / "artifacts")
    shutil.rmtree(journal)
    return bool(whole)
