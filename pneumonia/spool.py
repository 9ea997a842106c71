"""Tell MLflow about a run; what its server could not be told is kept in mlruns/spool and told later."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import mlflow
import requests
import urllib3
from filelock import FileLock
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunData, RunInfo, RunTag
from mlflow.exceptions import InvalidUrlException, MlflowException

from pneumonia.errors import InputError
from pneumonia.files import project_home

KEY = "run_key"  # tag that tells a run from all others also where the server's answer, with its id, was lost
Entry = dict[str, Any]  # something about a run, as JSON holds it; see `deliver`
T = TypeVar("T")


class UnreachableError(InputError):
    """A tracking server that does not answer, or answers that it cannot."""


def find_server() -> str:
    """Return the address of the tracking server without credentials, empty where the store is none."""
    uri = urlsplit(os.environ.get("MLFLOW_TRACKING_URI", ""))
    address = f"{uri.scheme}://{uri.netloc.rpartition('@')[2]}{uri.path}".rstrip("/")
    return address if uri.scheme in ("http", "https") else ""


@contextmanager
def reaching(doing: str = "") -> Iterator[None]:
    """Explain what goes wrong with a tracking server, and while doing what; errors of a local store pass as they are.

    Raises:
        UnreachableError: it does not answer, or with HTTP 408, 429 or 5xx.
        InputError: it refuses with another status, as 400, 401 and 403.
    """
    try:
        yield
    except (MlflowException, requests.RequestException) as error:
        if not (server := find_server()):
            raise
        status = _find_status(error)
        if status in (408, 429) or status >= 500:
            raise UnreachableError(
                f"The MLflow server {server} cannot be reached{doing}: {_find_reason(error)}.",
                expected="a server that answers, as `make server` starts one",
                remedy="start it, or correct MLFLOW_TRACKING_URI, and run the same command again; nothing is lost",
            ) from error
        raise InputError(
            f"The MLflow server {server} refuses with HTTP {status}{doing}: {_find_reason(error)}",
            expected="a server that knows the caller, if it asks for one, and takes what is sent",
            remedy="look at MLFLOW_TRACKING_URI, _USERNAME, _PASSWORD and _TOKEN, and run the same command again; "
            "what no server takes is given up by deleting its folder in mlruns/spool",
        ) from error


def _find_status(error: MlflowException | requests.RequestException) -> int:
    if isinstance(error, MlflowException):  # 500 also where there was no answer
        return 400 if isinstance(error, InvalidUrlException) else error.get_http_status_code()
    return 503 if error.response is None else error.response.status_code


def _find_reason(error: BaseException) -> str:
    # The innermost says it in a few words and without the address, which may hold a password.
    while isinstance(error.__context__, OSError | urllib3.exceptions.HTTPError | MlflowException):
        error = error.__context__
    return " ".join(str(error).split())


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
