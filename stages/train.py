"""Train the head on the frozen backbone."""

from pathlib import Path

from pneumonia.model import build_model
from pneumonia.params import ModelParams, Params, TrainParams
from pneumonia.phases import PhaseOutputs, run_phase
from pneumonia.stage import run_stage
from pneumonia.training import make_deterministic


def train(
    dataset: Path, out: Path, history: Path, metrics: Path, range_test: Path, params: TrainParams,
    model: ModelParams, recorded: Params,
) -> None:  # fmt: skip
    """Write the model of the best epoch, its metrics and the history of all, while MLflow follows each epoch."""
    make_deterministic(params.seed)
    outputs = PhaseOutputs(out, history, metrics, range_test)
    run_phase("train", build_model(model), None, dataset, outputs, params, recorded)


if __name__ == "__main__":
    run_stage(train)
