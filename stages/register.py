"""Record the runs that DVC restored, register the fine-tuned model, and promote it if it passes the gate."""

import json
from functools import partial
from pathlib import Path

from pneumonia.core.params import Params
from pneumonia.core.stage import run_stage
from pneumonia.core.tables import read_records
from pneumonia.records.splits import count_crossing
from pneumonia.registry.evaluated import ensure_evaluated
from pneumonia.registry.gate import submit
from pneumonia.registry.package import Package, collect_tags
from pneumonia.tracking.phase_run import ensure_run
from pneumonia.tracking.runs import link_initial_run, record_evaluation
from pneumonia.training.listener import replay_files


def register(
    dataset: Path, splits: Path, initial: Path, finetuned: Path, train_history: Path, finetune_history: Path,
    train_range: Path, finetune_range: Path, metrics: Path, point: Path, novelty: Path, evaluation: Path, report: Path,
    card: Path, params: Params,
) -> str:  # fmt: skip
    """Complete the MLflow store, and return what was decided."""
    package = Package(finetuned, point, novelty, evaluation / "predictions.csv", card)
    others, unused = (splits, initial, train_history, finetune_history, metrics), (train_range, finetune_range, report)
    ensure_evaluated(package, dataset, others, unused, params.compute)
    measured = json.loads(metrics.read_text())
    first = ensure_run("train", params, dataset, initial, partial(replay_files, train_history, train_range))
    second = ensure_run("finetune", params, dataset, finetuned, partial(replay_files, finetune_history, finetune_range))
    link_initial_run(second, initial)
    for run, name in ((first, "initial"), (second, "finetuned")):
        record_evaluation(run, measured[name], [*sorted(evaluation.glob("*.png")), report, card])
    tags = collect_tags(params, measured["finetuned"], splits, count_crossing(read_records(splits)))
    return submit(second, package, tags, params.data.notice, params.register_.gates)


if __name__ == "__main__":
    run_stage(register)
