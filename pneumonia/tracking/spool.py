"""Tell MLflow about a run; what its server could not be told is kept in mlruns/spool and told later."""

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import mlflow
from filelock import FileLock
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunData, RunInfo, RunTag
from mlflow.exceptions import MlflowException

from pneumonia.core.files import project_home
from pneumonia.tracking.connection import UnreachableError, find_server, reaching

KEY = "run_key"  # tag that tells a run from all others also where the server's answer, with its id, was lost
Entry = dict[str, Any]  # something about a run, as JSON holds it; see `deliver`
T = TypeVar("T")


def open_run(experiment: str, opening: Entry) -> Run:
    """Return the run with the key of `opening`, created from its name, start_time and tags when there is none."""
    client = mlflow.MlflowClient()
    query = f"tags.{KEY} = '{opening['tags'][KEY]}'"
    if found := client.search_runs([experiment], query, max_results=1):
        return found[0]
    return client.create_run(experiment, opening["start_time"], opening["tags"], opening["name"])


def deliver(run_id: str, entry: Entry, artifacts: Path | None = None) -> None:
    """Add an entry to a run; a second time it changes nothing, as MLflow keeps equal points of a metric once.

    Args:
        run_id: of the run.
        entry: perhaps `metrics` (list of name, value, time in ms, step), `params`, `tags`, `inputs` (by split), and
            `end` (status, time in ms).
        artifacts: folder whose content becomes the run's.
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
            client.log_inputs(run_id, told)  # a run beside it told of the same data at the same moment
    if artifacts:
        client.log_artifacts(run_id, str(artifacts))
    if "end" in entry:
        client.set_terminated(run_id, *entry["end"])


class Recorder:
    """Tells MLflow about one run; from the first time its server cannot be reached, writes down the rest."""

    def __init__(self, opening: Entry, tolerant: bool) -> None:
        """Open nothing yet.

        Args:
            opening: see `open_run`; the tags hold KEY and the phase.
            tolerant: whether the caller goes on without the server.
        """
        self.opening, self.tolerant, self.reached = opening, tolerant, True
        self.run = Run(RunInfo("", "", "", "RUNNING", opening["start_time"], None, "active"), RunData())
        self.folder = find_spool() / f".{opening['tags'][KEY]}"
        self.hand_over()  # what the same run left here when it was killed

    def attempt(self, call: Callable[[], T]) -> T | None:
        """Return what `call` returns; None once the server could not be reached, and nothing is tried any more."""
        if self.reached:
            try:
                with reaching():
                    return call()
            except UnreachableError as error:
                if not self.tolerant:
                    raise
                self.reached = False
                print(f"{str(error).splitlines()[0]} Going on; {find_spool()} keeps what it misses.", flush=True)
                self._write(self.opening | {"server": find_server() if self.run.info.run_id else ""})
        return None

    def record(self, entry: Entry, artifacts: Path | None = None) -> None:
        """Deliver an entry, or keep it."""
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
        """Leave what was kept to `send_waiting`."""
        if self.folder.exists():
            tags = self.opening["tags"]
            self.folder.rename(find_spool() / f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{tags['phase']}-{tags[KEY][:8]}")


def find_spool() -> Path:
    """Return the folder of journals, one folder each; while a phase writes one, its name starts with a dot."""
    return project_home() / "mlruns" / "spool"


def find_waiting() -> list[Path]:
    """Return the journals that wait to be sent, oldest first."""
    return sorted(find_spool().glob("[!.]*"))


def send_waiting(experiment: str) -> int:
    """Send all journals and return how many; one process at a time, as two at once could create a run twice."""
    with FileLock(find_spool() / ".lock"):
        return sum(_send(journal, experiment) for journal in find_waiting())


def _send(journal: Path, experiment: str) -> bool:
    path = journal / "journal.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    whole = [json.loads(line) for line in lines if line.endswith("\n")]  # a full disk may have cut the last one
    if whole:
        opening, *entries = whole
        if opening["server"] not in ("", find_server()):
            print(f"{journal} stays: {opening['server']} has the beginning of that run.", flush=True)
            return False
        with reaching(f", sending {journal}"):
            run_id = open_run(experiment, opening).info.run_id
            for entry in entries:
                deliver(run_id, entry)
            if (journal / "artifacts").exists():
                deliver(run_id, {}, journal / "artifacts")
    shutil.rmtree(journal)
    return bool(whole)
