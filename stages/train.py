"""Train the head on the frozen backbone."""

import shutil
from pathlib import Path

from pneumonia.activations import ActivationCache
from pneumonia.augment import read_dataset
from pneumonia.files import write_json
from pneumonia.model import build_model, save_model
from pneumonia.params import ModelParams, Params, TrainParams
from pneumonia.records import write_table
from pneumonia.stage import run_stage
from pneumonia.tracking import log_epoch, phase_run, tag_model
from pneumonia.training import describe_best, find_state, make_deterministic, train_from


def train(
    dataset: Path, out: Path, history: Path, metrics: Path, params: TrainParams, model: ModelParams, recorded: Params
) -> None:
    """Write the model of the best epoch, its metrics and the history of all, while MLflow follows each epoch."""
    films = read_dataset(dataset)
    make_deterministic(params.seed)
    classifier = build_model(model)
    state = find_state("train", dataset, classifier, params, recorded.compute.precision)
    cache = ActivationCache(recorded.compute, recorded.cache)
    with phase_run("train", recorded, films, dataset, state):
        epochs = train_from(classifier, None, films, params, cache, state, log_epoch)
        save_model(classifier, out)
        write_table(epochs, history)
        write_json(describe_best(epochs, params.monitor), metrics)
        tag_model(out)
    shutil.rmtree(state)


if __name__ == "__main__":
    run_stage(train)
