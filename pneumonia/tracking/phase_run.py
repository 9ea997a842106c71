"""Record training phases as MLflow runs, whether they ran here or DVC restored their outputs."""

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import mlflow
import pandas as pd
from matplotlib.figure import Figure
from mlflow.data.numpy_dataset import from_numpy
from mlflow.entities import Run
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking.context.registry import resolve_tags

from pneumonia.core.dataset import Dataset, read_dataset
from pneumonia.core.files import replacing, sha256_file
from pneumonia.core.names import SPLITS
from pneumonia.core.params import Params
from pneumonia.core.tables import write_table
from pneumonia.tracking.connection import connect
from pneumonia.tracking.provenance import describe_code
from pneumonia.tracking.runs import Phase, find_run, link_initial_run
from pneumonia.tracking.spool import KEY, Entry, Recorder, open_run, read_clock, send_spooled

SAMPLING = 2  # seconds between two samples of system metrics


class PhaseRun:
    """The MLflow run of a training phase; a `training.listener.Listener`."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    @property
    def run(self) -> Run:
        """Return MLflow's own description of the run; its id is empty while the store is out of reach."""
        return self._recorder.run

    def log_metrics(self, metrics: dict[str, float], step: int = 0) -> None:
        """Add metrics at one step."""
        now = read_clock()
        self._recorder.record({"metrics": [[name, float(value), now, step] for name, value in metrics.items()]})

    def log_epoch(self, epoch: int, logs: dict[str, float], rates: pd.DataFrame) -> None:
        """Add the metrics of an epoch, and the learning rate and momentum of its steps.

        Args:
            epoch: number from 0 as in Keras; MLflow shows it from 1.
            logs: metrics of the epoch. Those that `rates` holds for each step are left out.
            rates: columns learning_rate and perhaps momentum, indexed by the optimiser's step from 1.
        """
        now = read_clock()
        points = [[name, float(value), now, epoch + 1] for name, value in logs.items() if name not in rates]
        for name, values in rates.items():
            points += [[name, float(value), now, int(step)] for step, value in zip(rates.index, values, strict=True)]
        self._recorder.record({"metrics": points})

    def log_range_test(self, table: pd.DataFrame, learning_rate: float, figure: Figure) -> None:
        """Add a range test: table and figure as artifacts, `found_learning_rate` as a metric."""
        self.log_metrics({"found_learning_rate": learning_rate})
        with tempfile.TemporaryDirectory() as folder:
            artifacts = Path(folder) / "range_test"
            write_table(table, artifacts / "range_test.csv")
            figure.savefig(artifacts / "range_test.png")
            self._recorder.record({}, Path(folder))

    def log_best(self, best: dict[str, float]) -> None:
        """Add the metrics of the best epoch as `best_val_loss` and so on: sweeps are ranked by them."""
        self.log_metrics({f"best_{name}": value for name, value in best.items()})

    def tag(self, tags: dict[str, str]) -> None:
        """Add tags."""
        self._recorder.record({"tags": tags})

    def tag_model(self, model: Path) -> None:
        """Tag the run with the SHA-256 of the model it made."""
        self.tag({"model_sha256": sha256_file(model)})

    def link_initial_run(self, initial: Path) -> None:
        """Link the run to the one that made its initial model; while the store is out of reach, `register` does it."""
        self._recorder.attempt(lambda: link_initial_run(self.run, initial))


@contextmanager
def phase_run(phase: Phase, params: Params, dataset: Dataset, dataset_path: Path, state: Path) -> Iterator[PhaseRun]:
    """Open the run of a training phase; a phase that resumes continues its run.

    A store out of reach does not stop the phase, see `spool`.

    Args:
        phase: "train" or "finetune".
        params: all of params.yaml, logged under dotted names.
        dataset: logged as counts and data sets.
        dataset_path: its file, whose SHA-256 identifies the data.
        state: folder of the phase's training state, which remembers the run.

    Raises:
        InputError: the tracking server refuses, see `connection.reaching`.
    """
    remembered = state / "mlflow_run"
    resumed = remembered.exists()
    state.mkdir(parents=True, exist_ok=True)
    key = remembered.read_text() if resumed else uuid4().hex
    with replacing(remembered) as beside:
        beside.write_text(key)
    recorder = Recorder(_describe_run(key, phase, params, dataset_path), tolerant=True)
    recorder.attempt(send_spooled)  # first, as it may hold the beginning of this run
    started = time.monotonic()
    with _recording(recorder, params, dataset, resumed) as run:
        monitor = _watch_system(run.run.info.run_id, resumed) if recorder.reached else None
        try:
            yield run
            run.log_metrics({"duration_seconds": round(time.monotonic() - started, 1)})
        finally:
            if monitor and recorder.reached:
                monitor.finish()
            elif monitor:  # it may be waiting for the store
                threading.Thread(target=monitor.finish, daemon=True).start()


def _watch_system(run_id: str, resumed: bool) -> SystemMetricsMonitor:
    monitor = SystemMetricsMonitor(run_id, sampling_interval=SAMPLING, resume_logging=resumed)
    monitor.start()
    return monitor


def _describe_run(key: str, phase: Phase, params: Params, dataset: Path) -> Entry:
    experiment_name = os.environ.get("DVC_EXP_NAME")
    tags = {KEY: key, "phase": phase, "dataset_sha256": sha256_file(dataset), **describe_code()}
    tags |= {"dvc_exp_name": experiment_name} if experiment_name else {}
    tags |= {"mlflow.note.content": params.data.notice} if params.data.notice else {}
    name = f"{experiment_name or params.recipe} {phase}"
    return {"name": name, "start_time": read_clock(), "tags": resolve_tags(tags)}


@contextmanager
def _recording(recorder: Recorder, params: Params, dataset: Dataset, resumed: bool = False) -> Iterator[PhaseRun]:
    def open_it() -> Run:
        run = open_run(connect(), recorder.opening)
        if run.info.status != "RUNNING":
            mlflow.MlflowClient().update_run(run.info.run_id, "RUNNING")
        return run

    recorder.run = recorder.attempt(open_it) or recorder.run
    status = "FAILED"
    try:
        # Inputs never change: a run that has them, or has them in a journal, gets no others.
        if not (recorder.run.data.params if recorder.reached else resumed):
            recorder.record(_describe_inputs(params, dataset, recorder.opening["tags"]["dataset_sha256"]))
        yield PhaseRun(recorder)
        status = "FINISHED"
    finally:
        recorder.record({"end": [status, read_clock()]})
        recorder.hand_over()


def _describe_inputs(params: Params, dataset: Dataset, sha256: str) -> Entry:
    entry: Entry = {"params": {name: str(value) for name, value in params.flat().items()}, "inputs": {}}
    for split in SPLITS:
        part, name = getattr(dataset, split), f"{params.data.source} {split}"
        entry["params"][f"images.{split}"] = str(len(part.labels))
        digest = sha256[:32]  # MLflow allows 36 characters
        data = from_numpy(part.images[:: part.views], targets=part.labels, name=name, digest=digest)  # pyright: ignore
        entry["inputs"][split] = data.to_dict()
    return entry


def ensure_run(phase: Phase, params: Params, dataset: Path, model: Path, replay: Callable[..., None]) -> Run:
    """Return the run that made `model`; record one if there is none because DVC restored the model.

    Waiting journals are sent first, since the run may be among them. A DVC experiment gets a fine-tune run of its own
    even if another experiment made the same model: their test metrics may differ.

    Args:
        phase: "train" or "finetune".
        params: all of params.yaml.
        dataset: pickle of the augment stage.
        model: file that the phase wrote.
        replay: tells a new run, given the phase's section, the notice and the data, what the phase would have told it.

    Raises:
        InputError: the tracking server does not answer or refuses.
    """
    send_spooled()
    if run := find_run(phase, model, os.environ.get("DVC_EXP_NAME") if phase == "finetune" else None):
        return run
    recorder = Recorder(_describe_run(uuid4().hex, phase, params, dataset), tolerant=False)
    images = read_dataset(dataset)
    with _recording(recorder, params, images) as run:
        run.tag({"restored": "True"})
        replay(getattr(params, phase), params.data.notice, run, images)
        run.tag_model(model)
    return recorder.run
