"""Go on training from an inner layer of the backbone at a low learning rate."""

import shutil
from pathlib import Path

from pneumonia.activations import ActivationCache
from pneumonia.augment import read_dataset
from pneumonia.files import write_json
from pneumonia.model import find_layer, get_backbone, load_model, save_model
from pneumonia.params import FinetuneParams, Params
from pneumonia.records import write_table
from pneumonia.stage import run_stage
from pneumonia.tracking import link_initial_run, log_epoch, phase_run, tag_model
from pneumonia.training import describe_best, find_state, make_deterministic, train_from


def finetune(
    dataset: Path, initial: Path, out: Path, history: Path, metrics: Path, params: FinetuneParams, recorded: Params
) -> None:
    """Write the model of the best epoch, its metrics and the history of all, while MLflow follows each epoch."""
    films = read_dataset(dataset)
    make_deterministic(params.seed)
    classifier = load_model(initial)
    from_layer = find_layer(get_backbone(classifier), params.from_layer)
    state = find_state("finetune", dataset, classifier, params, recorded.compute.precision)
    cache = ActivationCache(recorded.compute, recorded.cache)
    with phase_run("finetune", recorded, films, dataset, state) as run:
        link_initial_run(run, initial)
        epochs = train_from(classifier, from_layer, films, params, cache, state, log_epoch)
        save_model(classifier, out)
        write_table(epochs, history)
        write_json(describe_best(epochs, params.monitor), metrics)
        tag_model(out)
    shutil.rmtree(state)


if __name__ == "__main__":
    run_stage(finetune)
