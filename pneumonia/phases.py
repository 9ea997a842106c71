"""Run a training phase: what is frozen once, then epoch by epoch, followed by MLflow, its outputs written."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import keras

from pneumonia.activations import ActivationCache, fingerprint
from pneumonia.augment import Dataset, Split, read_dataset
from pneumonia.batches import Batches
from pneumonia.files import project_home, sha256_bytes, sha256_file, write_json
from pneumonia.model import count_parameters, cut_model, freeze_below, save_model
from pneumonia.params import FitParams, Params
from pneumonia.rate_finder import choose_learning_rate
from pneumonia.records import write_table
from pneumonia.tracking import link_initial_run, log_best, log_epoch, log_range_test, phase_run, tag_model
from pneumonia.training import describe_best, fit


@dataclass(frozen=True)
class PhaseOutputs:
    """Files that a phase writes: model of the best epoch, history of all, metrics of the best, range test."""

    model: Path
    history: Path
    metrics: Path
    range_test: Path


def run_phase(
    phase: str, classifier: keras.Model, from_layer: int | None, dataset: Path, outputs: PhaseOutputs,
    params: FitParams, recorded: Params, initial: Path | None = None,
) -> None:  # fmt: skip
    """Train a classifier's head, and its backbone from `from_layer` on, as one run in MLflow.

    Args:
        phase: "train" or "finetune".
        classifier: trained in place, after `make_deterministic`.
        from_layer: first trainable layer of the backbone; None freezes it.
        dataset: pickle of the augment stage.
        outputs: files that are written.
        params: section of the phase.
        recorded: all of params.yaml.
        initial: model of the phase before.

    Raises:
        InputError: the data set is damaged, its activations do not fit, or no learning rate is found.
    """
    films = read_dataset(dataset)
    state = find_state(phase, dataset, classifier, params, recorded.compute.precision)
    cache = ActivationCache(recorded.compute, recorded.cache)
    with phase_run(phase, recorded, films, dataset, state) as run:
        if initial:
            link_initial_run(run, initial)
        tail, train, val = prepare(
            classifier, from_layer, films, params.batch_size, cache, recorded.finetune.from_layer
        )  # fmt: skip
        learning_rate, table = choose_learning_rate(tail, train, params, films.class_weight)
        write_table(table, outputs.range_test)
        log_range_test(outputs.range_test, recorded.data.notice)
        history = fit(tail, train, val, params, learning_rate, films.class_weight, state, log_epoch)
        save_model(classifier, outputs.model)
        write_table(history, outputs.history)
        counts = dict(zip(("parameters", "trainable_parameters"), count_parameters(classifier), strict=True))
        best = describe_best(history, params.monitor)
        log_best(best)
        write_json(best | {"learning_rate": learning_rate} | counts, outputs.metrics)
        tag_model(outputs.model)
    shutil.rmtree(state)


def find_state(phase: str, dataset: Path, model: keras.Model, params: FitParams, precision: str) -> Path:
    """Return the folder of a phase's unfinished training: it belongs to exactly this data, model, code and section."""
    code = [sha256_file(path) for path in sorted(Path(__file__).parent.glob("*.py"))]
    key = json.dumps([sha256_file(dataset), fingerprint(model), params.model_dump(), precision, code])
    return project_home() / ".cache" / "training" / f"{phase}-{sha256_bytes(key.encode())[:16]}"


def prepare(
    model: keras.Model, from_layer: int | None, dataset: Dataset, batch_size: int, cache: ActivationCache,
    below: int | str = "auto",
) -> tuple[keras.Model, Batches, Batches]:  # fmt: skip
    """Freeze a classifier below `from_layer`, all of its backbone when None, and run what is frozen once per film.

    `below` is the layer from which fine-tuning will train: what lies underneath is kept for it, see `cut_model`.

    Returns:
        The part that is trained, and what it takes of training and validation films.
    """
    freeze_below(model, from_layer)
    cut = cut_model(model, below)

    def batches(split: Split) -> Batches:
        x = cache.read(cut.prefixes, split.images) if cut.prefixes else split.images
        return Batches(x, split.labels, batch_size)

    return cut.tail, batches(dataset.train), batches(dataset.val)
