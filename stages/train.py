"""Train the head on the frozen backbone."""

from pathlib import Path

from pneumonia.core.dataset import read_dataset
from pneumonia.core.params import ModelParams, Params, TrainParams
from pneumonia.core.stage import run_stage
from pneumonia.models.activations import ActivationCache
from pneumonia.models.classifier import build_model
from pneumonia.tracking.phase_run import phase_run
from pneumonia.training.fit import make_deterministic
from pneumonia.training.phase import run_phase
from pneumonia.training.state import find_state, hold_state


def train(
    dataset: Path, out: Path, history: Path, metrics: Path, range_test: Path, params: TrainParams, model: ModelParams,
    recorded: Params,
) -> str:  # fmt: skip
    """Write the best epoch's model and metrics, and the history of all epochs; an MLflow run follows the training."""
    make_deterministic(params.seed)
    images, classifier = read_dataset(dataset), build_model(model)
    cache = ActivationCache(recorded.compute, recorded.cache)
    state = find_state(Path(__file__), dataset, classifier, params, recorded.compute.precision)
    with hold_state(state, out), phase_run("train", recorded, images, dataset, state) as run:
        trained = run_phase(classifier, None, images, params, cache, state, run, recorded.data.notice)
        trained.write(classifier, out, history, metrics, range_test)
        run.tag_model(out)
    return trained.describe()


if __name__ == "__main__":
    run_stage(train)
