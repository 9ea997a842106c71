"""Go on training from an inner layer of the backbone at a low learning rate."""

from pathlib import Path

from pneumonia.model import find_layer, get_backbone, load_model
from pneumonia.params import FinetuneParams, Params
from pneumonia.phases import PhaseOutputs, run_phase
from pneumonia.stage import run_stage
from pneumonia.training import make_deterministic


def finetune(
    dataset: Path, initial: Path, out: Path, history: Path, metrics: Path, range_test: Path, params: FinetuneParams,
    recorded: Params,
) -> None:  # fmt: skip
    """Write the model of the best epoch, its metrics and the history of all, while MLflow follows each epoch."""
    make_deterministic(params.seed)
    classifier = load_model(initial)
    from_layer = find_layer(get_backbone(classifier), params.from_layer)
    outputs = PhaseOutputs(out, history, metrics, range_test)
    run_phase("finetune", classifier, from_layer, dataset, outputs, params, recorded, initial)


if __name__ == "__main__":
    run_stage(finetune)
