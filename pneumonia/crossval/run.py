"""Run all folds and seeds of recipes; what a killed run had finished is not repeated."""

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from io import TextIOBase
from pathlib import Path
from statistics import mean
from typing import Any

import pandas as pd
from tqdm import tqdm

from pneumonia.core.files import locked, write_json
from pneumonia.crossval.measure import predict_held_out
from pneumonia.crossval.plan import Plan, Run
from pneumonia.crossval.pool import Pool, PoolCache, build_pool
from pneumonia.models.backbones import find_image_size
from pneumonia.tracking.failures import UnreachableError


class _NoTerminal(TextIOBase):
    """Standard error as if it were a file: progress bars of single epochs and batches stay away."""

    def __init__(self) -> None:
        self.stream = sys.stderr

    def write(self, text: str) -> int:
        return self.stream.write(text)

    def isatty(self) -> bool:
        return False


def run_plans(plans: Sequence[Plan]) -> tuple[list[Run], bool]:
    """Run what is missing of each plan and tell MLflow; return all runs, and whether MLflow could be reached.

    Raises:
        InputError: the activations exceed cache.max_gb, or the tracking server refuses.
    """
    runs: list[Run] = []
    missing = sum(not plan.find(seed, fold).exists() for plan in plans for _, seed, fold in plan.list_runs())
    with tqdm(total=missing, desc="folds", unit=" folds", disable=None) as progress:
        folds = _Folds(progress)
        for plan in plans:
            with locked(plan.state, "cross-validating the same"):
                runs += folds.run(plan)
    return runs, folds.reached


class _Folds:
    """Trains fold after fold; the pool of one recipe serves the next if it wants the same images."""

    def __init__(self, progress: Any) -> None:
        self.progress, self.reached = progress, True
        self.pools: dict[str, Pool] = {}
        self.seconds: list[float] = []  # of each training here

    def run(self, plan: Plan) -> Iterator[Run]:
        cache: PoolCache | None = None
        for number, seed, fold in plan.list_runs():
            path = plan.find(seed, fold)
            if fresh := not path.exists():
                cache = cache or self._prepare(plan)
                self._train(plan, cache, number, fold, path)
            result = json.loads(path.read_text())
            size = find_image_size(plan.params.model)
            predictions = predict_held_out(plan.work.records, result, size, plan.params.evaluate)
            run = Run(plan.name, number, seed, fold, result, predictions)
            if fresh:
                self._tell(plan, run)
            self._record(plan, run)
            yield run

    def _prepare(self, plan: Plan) -> PoolCache:
        """Decode the images, and compute all activations with their progress shown."""
        size, augment = find_image_size(plan.params.model), plan.params.augment
        key = f"{size} {augment.model_dump_json()}"
        if key not in self.pools:
            self.pools = {key: build_pool(plan.work.folds, plan.work.raw, size, augment)}
        cache = PoolCache(plan.params.compute, plan.params.cache)
        whole = self.pools[key].pick(plan.work.folds[0]).train.images
        for *_, cut in plan.trainer.phases:
            if cut.frozen:
                cache.read(cut.frozen, whole)
        return cache

    def _train(self, plan: Plan, cache: PoolCache, number: int, fold: int, path: Path) -> None:
        (pool,) = self.pools.values()
        state = path.with_suffix("")
        with redirect_stderr(_NoTerminal()):
            write_json(plan.trainer.run(pool.pick(plan.work.folds[fold - 1]), number, cache, state), path)
        shutil.rmtree(state, ignore_errors=True)

    def _tell(self, plan: Plan, run: Run) -> None:
        self.progress.update()
        self.seconds.append(run.result["seconds"])
        left = (self.progress.total - len(self.seconds)) * mean(self.seconds)
        where = f"{run.recipe}, seed {run.seed}, fold {run.fold} of {len(plan.work.folds)}"
        self.progress.write(
            f"{where}: {run.describe()} ({run.result['seconds']:.0f} s; about {left / 60:.0f} min left)"
        )

    def _record(self, plan: Plan, run: Run) -> None:
        if self.reached:
            metrics = run.metrics | {"duration_seconds": run.result["seconds"]}
            try:
                plan.nested.record_fold(run.fold, run.seed, run.result["epochs"], metrics, run.result["diverged"])
            except UnreachableError as error:
                self.reached = False
                self.progress.write(f"{str(error).splitlines()[0]} The same command records later what is missing.")


def finish(plans: Sequence[Plan], metrics: pd.DataFrame) -> None:
    """Add the pooled metrics of each plan to its parent run."""
    for plan in plans:
        table = metrics[metrics["recipe"] == plan.name].set_index("metric")
        bounds = {"": "mean", "_low": "low", "_high": "high", "_spread": "spread"}
        plan.nested.finish({
            f"{name}{end}": float(row[column]) for name, row in table.iterrows() for end, column in bounds.items()
        })  # fmt: skip
