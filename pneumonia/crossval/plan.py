"""What a cross-validation consists of: what all recipes share, a plan for each, and its runs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd

from pneumonia.core.files import project_home, sha256_bytes
from pneumonia.core.params import Params
from pneumonia.crossval.measure import Result, measure_images
from pneumonia.crossval.trainer import CODE, Trainer
from pneumonia.models.activations import fingerprint
from pneumonia.tracking.nested_runs import NestedRuns
from pneumonia.training.state import hash_code


@dataclass(frozen=True)
class Run:
    """A fold of a recipe trained with one seed.

    Attributes:
        recipe: its name.
        number: of the seed, from 0; equal numbers of two recipes are compared.
        seed: of the training.
        fold: from 1.
        result: of `Trainer.run`.
        predictions: of `predict_held_out`.
    """

    recipe: str
    number: int
    seed: int
    fold: int
    result: Result
    predictions: pd.DataFrame

    @cached_property
    def metrics(self) -> dict[str, float]:
        """METRICS of what was held out."""
        return measure_images(self.predictions)

    def describe(self) -> str:
        """Return what this run reached."""
        if self.result["diverged"]:
            return "diverged: its weights are no numbers"
        return ", ".join(f"{name} {self.metrics[name]:.4f}" for name in ("roc_auc", "accuracy"))


@dataclass(frozen=True)
class Work:
    """What all recipes share.

    Attributes:
        folds: from `deal_folds`.
        seeds: how many.
        head_only: whether to stop after the first phase.
        raw: folder that paths of images start from.
    """

    folds: Sequence[pd.DataFrame]
    seeds: int
    head_only: bool
    raw: Path

    @cached_property
    def records(self) -> pd.DataFrame:
        """All images, indexed by path."""
        return self.folds[0].set_index("path")

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what is dealt to which part of which fold."""
        dealt = pd.concat([fold[["path", "sha256", "label", "split"]] for fold in self.folds])
        return sha256_bytes(dealt.to_csv(index=False).encode())


@dataclass(frozen=True)
class Plan:
    """One recipe: its trainer, which is built at once, and where its results are kept."""

    name: str
    params: Params
    work: Work
    trainer: Trainer = field(init=False)

    def __post_init__(self) -> None:
        """Build the classifier; missing weights are told before anything runs."""
        object.__setattr__(self, "trainer", Trainer(self.params, self.work.head_only))

    @cached_property
    def state(self) -> Path:
        """Folder of the results, named by all that they depend on."""
        params = self.params
        sections = [s.model_dump(mode="json") for s in (params.augment, params.model, params.train, params.finetune)]
        told = [sections[: 3 if self.work.head_only else 4], params.evaluate.flip, params.compute.precision]
        key = json.dumps([self.work.digest, fingerprint(self.trainer.classifier), *told, hash_code(CODE)])
        return project_home() / ".cache" / "crossval" / f"{params.recipe}-{sha256_bytes(key.encode())[:16]}"

    @cached_property
    def nested(self) -> NestedRuns:
        """Runs in MLflow: a threshold changes them, and no result."""
        key = sha256_bytes(json.dumps([self.state.name, self.name, self.params.flat()]).encode())[:32]
        facts = {"folds": str(len(self.work.folds)), "head_only": str(self.work.head_only),
                 "images": str(len(self.work.records))}  # fmt: skip
        return NestedRuns(key, self.name, self.params, facts)

    def list_runs(self) -> list[tuple[int, int, int]]:
        """Return number of the seed, seed and number of the fold of each run, in the order of running."""
        first = self.params.train.seed
        return [(n, first + n, fold) for n in range(self.work.seeds) for fold in range(1, len(self.work.folds) + 1)]

    def find(self, seed: int, fold: int) -> Path:
        """Return the file of a result."""
        return self.state / f"seed{seed}-fold{fold}.json"
