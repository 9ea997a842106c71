"""Write the report for people and the card that goes with the model."""

from pathlib import Path

from pneumonia.core.params import Params
from pneumonia.core.stage import run_stage
from pneumonia.reporting.report import describe_run, write_model_card, write_report


def report(
    metrics: Path, point: Path, evaluation: Path, split: Path, validation: Path, splits: Path, model: Path,
    finetune: Path, out: Path, card: Path, params: Params,
) -> str:  # fmt: skip
    """Write an HTML report and a model card from the results of the run."""
    run = describe_run(metrics, point, evaluation, split, validation, splits, model, finetune, params)
    write_report(out, evaluation, run)
    write_model_card(card, run)
    return f"{out}, {card}"


if __name__ == "__main__":
    run_stage(report)
