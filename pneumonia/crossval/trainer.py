"""Train a recipe on one fold after another with the phases of the pipeline, and score what is held out."""

import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure

from pneumonia.core.dataset import Dataset
from pneumonia.core.params import FitParams, Params
from pneumonia.crossval.pool import join
from pneumonia.inference.scores import score_images
from pneumonia.models.activations import ActivationCache
from pneumonia.models.classifier import build_model
from pneumonia.models.cut import Cut, find_layer, freeze_below, get_backbone
from pneumonia.training.fit import make_deterministic
from pneumonia.training.phase import cut_for_phase, run_phase

# What a result depends on, see `training.state.hash_code`. A test follows the imports.
CODE = ("core", "images", "augment", "models", "training", "inference/scores.py", "crossval/pool.py",
        "crossval/trainer.py")  # fmt: skip


class _Silence:
    """A listener that records nothing: the result holds what MLflow is told."""

    def log_range_test(self, table: pd.DataFrame, learning_rate: float, figure: Figure) -> None:
        """Leave a range test; its rate is in the history."""

    def log_epoch(self, epoch: int, logs: dict[str, float], rates: pd.DataFrame) -> None:
        """Leave an epoch; it is in the history."""

    def log_best(self, best: dict[str, float]) -> None:
        """Leave the best epoch; it is in the history."""


class Trainer:
    """The classifier of one recipe, built, cut and compiled once; every fold starts from its initial weights.

    Args:
        params: of the recipe.
        head_only: whether to stop after the first phase.

    Raises:
        InputError: the backbone's weights are missing, or it has no layer that `finetune.from_layer` names.
    """

    def __init__(self, params: Params, head_only: bool) -> None:
        self.params = params
        make_deterministic(params.train.seed)
        self.classifier = build_model(params.model)
        self._initial = self.classifier.get_weights()
        self._heads = {params.train.seed: _get_head(self.classifier)}
        layer = find_layer(get_backbone(self.classifier), params.finetune.from_layer)
        self.phases: list[tuple[str, int | None, FitParams, Cut]] = []
        for name, first, section in (("train", None, params.train), ("finetune", layer, params.finetune)):
            if not (name == "finetune" and head_only):
                self.phases.append((name, first, section, cut_for_phase(self.classifier, first, section)))
        freeze_below(self.classifier, None)

    def run(self, dataset: Dataset, number: int, cache: ActivationCache, state: Path) -> dict[str, Any]:
        """Train on a fold, then score its validation part and what is held out.

        Args:
            dataset: from `Pool.pick`.
            number: of the seed, from 0: added to the seeds of both phases. With 0 it trains as the stages do.
            cache: of the activations of the frozen parts.
            state: folder from which an interrupted fold resumes.

        Returns:
            `diverged`, whether the kept weights give log odds that are no numbers; `epochs`, the history of both
            phases; `seconds`; and of `val` and `test` `images`, paths, and `log_odds`, not calibrated.
        """
        started = time.monotonic()
        self._reset(number)
        epochs: list[Any] = []
        cut: Cut | None = None
        for name, layer, section, cut in self.phases:
            section = section.model_copy(update={"seed": section.seed + number})
            trained = run_phase(
                self.classifier, layer, dataset, section, cache, state / name, _Silence(), self.params.data.notice, cut
            )
            epochs += trained.history.assign(phase=name).to_dict("records")
            if np.isnan(trained.best["val_loss"]):
                break
        log_odds = self._score(dataset, cache, cut)
        diverged = not np.isfinite(log_odds).all()
        scored = zip(("val", "test"), np.split(log_odds, [len(dataset.val.labels)]), strict=True)
        results = {
            name: {"images": getattr(dataset, name).paths.tolist(), "log_odds": [] if diverged else part.tolist()}
            for name, part in scored
        }
        return {"diverged": diverged, "epochs": epochs, "seconds": round(time.monotonic() - started, 1), **results}

    def _score(self, dataset: Dataset, cache: ActivationCache, cut: Cut | None) -> npt.NDArray[np.float64]:
        """Return the log odds of the validation part, then those of what is held out; traced once for both."""
        images: Any = join(dataset.val.images, dataset.test.images)
        flip = self.params.evaluate.flip
        return score_images(self.classifier, images[:] if flip else images, cache, flip, cut)

    def _reset(self, number: int) -> None:
        """Set all weights back to the initial ones; the head's are those that the seed of this number draws."""
        seed = self.params.train.seed + number
        if seed not in self._heads:
            make_deterministic(seed)
            self._heads[seed] = _get_head(build_model(self.params.model))
        head = self._heads[seed]
        self.classifier.set_weights([*self._initial[: len(self._initial) - len(head)], *head])


def _get_head(model: keras.Model) -> list[npt.NDArray[Any]]:
    layers = model.layers[model.layers.index(get_backbone(model)) + 1 :]
    return [weight for layer in layers for weight in layer.get_weights()]
