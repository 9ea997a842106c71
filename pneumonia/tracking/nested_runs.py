"""Record a cross-validation: a parent run for each recipe, a child for each fold and seed, each of them once."""

from collections.abc import Mapping
from functools import cached_property
from math import isfinite
from typing import Any

import mlflow
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from pneumonia.core.params import Params
from pneumonia.tracking.connection import connect
from pneumonia.tracking.failures import reaching
from pneumonia.tracking.provenance import describe_code
from pneumonia.tracking.spool import KEY, Entry, deliver, open_run, read_clock

Metrics = Mapping[str, float]


class NestedRuns:
    """The runs of one recipe's cross-validation. What the store already has is not recorded again.

    Args:
        key: identifies the cross-validation; the same one continues the same runs.
        name: of the recipe, for people.
        params: of the recipe, all logged under dotted names.
        facts: logged as parameters beside them, such as the number of folds.
    """

    def __init__(self, key: str, name: str, params: Params, facts: Mapping[str, str]) -> None:
        self.key, self.name, self.notice = key, name, params.data.notice
        self.params = {name: str(value) for name, value in params.flat().items()} | dict(facts)

    @cached_property
    def parent(self) -> str:
        """Id of the parent run, opened when it is first asked for."""
        opening = self._open(self.key, f"{self.name} crossval", {})
        run = open_run(connect(), opening)
        if not run.data.params:
            deliver(run.info.run_id, {"params": self.params})
        return run.info.run_id

    @cached_property
    def _recorded(self) -> set[str]:
        """Keys of the children that the store has whole."""
        query = f"tags.{MLFLOW_PARENT_RUN_ID} = '{self.parent}'"
        children: list[Any] = mlflow.search_runs([connect()], query, output_format="list")  # pyright: ignore
        return {child.data.tags[KEY] for child in children if child.info.status in ("FINISHED", "FAILED")}

    def _open(self, key: str, name: str, tags: dict[str, str]) -> Entry:
        about = {KEY: key, "phase": "crossval", **self._code, **tags}
        about |= {"mlflow.note.content": self.notice} if self.notice else {}
        return {"name": name, "start_time": read_clock(), "tags": resolve_tags(about)}

    @cached_property
    def _code(self) -> dict[str, str]:
        return describe_code()

    @reaching("recording a fold")
    def record_fold(
        self, fold: int, seed: int, epochs: list[Mapping[str, Any]], metrics: Metrics, diverged: bool
    ) -> None:
        """Record a fold as a child, whole, unless it is there.

        Args:
            fold: number from 1.
            seed: of the training.
            epochs: metrics of each epoch of both phases, in order; text is left out.
            metrics: of what was held out, and others.
            diverged: a fold that did ends as failed.
        """
        key = f"{self.key}-{fold}-{seed}"
        if key in self._recorded:
            return
        name, tags = f"fold {fold}, seed {seed}", {MLFLOW_PARENT_RUN_ID: self.parent}
        run_id = open_run(connect(), self._open(key, name, tags)).info.run_id
        now = read_clock()
        points = [
            [metric, float(value), now, step]
            for step, logs in enumerate(epochs, 1)
            for metric, value in logs.items()
            if metric != "epoch" and not isinstance(value, str)
        ]
        points += [[metric, float(value), now, 0] for metric, value in metrics.items() if isfinite(value)]
        params = self.params | {"fold": str(fold), "seed": str(seed)}
        end = "FAILED" if diverged else "FINISHED"
        deliver(run_id, {"params": params, "metrics": points, "end": [end, read_clock()]})
        self._recorded.add(key)

    @reaching("recording a cross-validation")
    def finish(self, metrics: Metrics) -> None:
        """Add the pooled metrics to the parent, unless it has exactly these, and end it."""
        told = mlflow.get_run(self.parent)
        kept = {name: float(value) for name, value in metrics.items() if isfinite(value)}
        if told.info.status != "FINISHED" or not kept.items() <= told.data.metrics.items():
            now = read_clock()
            points = [[name, value, now, 0] for name, value in kept.items()]
            deliver(self.parent, {"metrics": points, "end": ["FINISHED", now]})
