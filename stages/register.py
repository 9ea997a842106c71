"""Record what DVC restored, register the fine-tuned model, and promote it when it deserves it."""

import json
from functools import partial
from pathlib import Path

import pandas as pd

from pneumonia.core.params import Params
from pneumonia.core.stage import run_stage
from pneumonia.core.tables import read_records
from pneumonia.records.splits import count_crossing
from pneumonia.registry.gate import consider
from pneumonia.registry.promotion import MODEL_NAME
from pneumonia.registry.versions import Package, describe_version, register_package
from pneumonia.tracking.connection import reaching
from pneumonia.tracking.runs import ensure_run, link_initial_run, record_evaluation
from pneumonia.training.phase import replay_files


@reaching("what this stage asks and tells")
def register(
    dataset: Path, splits: Path, initial: Path, finetuned: Path, train_history: Path, finetune_history: Path,
    train_range: Path, finetune_range: Path, metrics: Path, point: Path, novelty: Path, evaluation: Path, report: Path,
    card: Path, params: Params,
) -> str:  # fmt: skip
    """Leave a complete MLflow store behind, and say what was compared and decided."""
    measured, notice = json.loads(metrics.read_text()), params.data.notice
    replay = partial(replay_files, train_history, train_range, params.train, notice)
    first = ensure_run("train", params, dataset, initial, replay)
    replay = partial(replay_files, finetune_history, finetune_range, params.finetune, notice)
    second = ensure_run("finetune", params, dataset, finetuned, replay)
    link_initial_run(second, initial)
    for run, name in ((first, "initial"), (second, "finetuned")):
        record_evaluation(run, measured[name], [*sorted(evaluation.glob("*.png")), report, card])
    crossing = count_crossing(read_records(splits))["crossing_patients"]
    tags = describe_version(params, measured["finetuned"], splits) | {"crossing_patients": str(crossing)}
    package = Package(finetuned, point, novelty, evaluation / "predictions.csv", card)
    version = register_package(second, package, tags, notice)
    outcome, checks = consider(version, params.register_.gates)
    print(pd.DataFrame([vars(check) for check in checks]).to_string(index=False))
    return f"{MODEL_NAME}: {outcome}. {notice}".strip()


if __name__ == "__main__":
    run_stage(register)
