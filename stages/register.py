"""Record what DVC restored, register the fine-tuned model, and promote it when it deserves it."""

import json
from pathlib import Path

import pandas as pd

from pneumonia.connection import reaching
from pneumonia.files import sha256_file
from pneumonia.gate import consider
from pneumonia.params import Params
from pneumonia.promotion import MODEL_NAME
from pneumonia.provenance import find_commit
from pneumonia.records import read_records
from pneumonia.registry import Package, register_package
from pneumonia.splits import count_crossing
from pneumonia.stage import run_stage
from pneumonia.tracking import ensure_run, link_initial_run, record_evaluation


@reaching("what this stage asks and tells")
def register(
    dataset: Path, splits: Path, initial: Path, finetuned: Path, train_history: Path, finetune_history: Path,
    train_range: Path, finetune_range: Path, metrics: Path, point: Path, novelty: Path, evaluation: Path, report: Path,
    card: Path, params: Params,
) -> None:  # fmt: skip
    """Leave a complete MLflow store behind, and say what was compared and decided."""
    measured = json.loads(metrics.read_text())
    runs = {
        "initial": ensure_run("train", params, dataset, initial, train_history, train_range),
        "finetuned": ensure_run("finetune", params, dataset, finetuned, finetune_history, finetune_range),
    }
    link_initial_run(runs["finetuned"], initial)
    for name, run in runs.items():
        record_evaluation(run, measured[name], [*sorted(evaluation.glob("*.png")), report, card])
    tags = {f"test_{name}": str(value) for name, value in measured["finetuned"].items()} | {
        "git_commit": find_commit(),
        "recipe": params.recipe,
        "data_source": params.data.source,
        "split": params.split.strategy,
        "crossing_patients": str(count_crossing(read_records(splits))["crossing_patients"]),
        "data_sha256": sha256_file(splits),
        "synthetic": str(bool(params.data.notice)),
    }
    package = Package(finetuned, point, novelty, evaluation / "predictions.csv", card)
    version = register_package(runs["finetuned"], package, tags, params.data.notice)
    outcome, checks = consider(version, params.register_.gates)
    print(pd.DataFrame([vars(check) for check in checks]).to_string(index=False))
    print(f"{MODEL_NAME}: {outcome}. {params.data.notice}")


if __name__ == "__main__":
    run_stage(register)
