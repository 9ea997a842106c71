"""Record what DVC restored, register the fine-tuned model, and promote it when it deserves it."""

import json
from pathlib import Path

import pandas as pd

from pneumonia.backbones import find_image_size
from pneumonia.files import sha256_file
from pneumonia.params import Params
from pneumonia.records import read_records
from pneumonia.registry import MODEL_NAME, consider, register_model
from pneumonia.stage import run_stage
from pneumonia.tracking import ensure_run, find_commit, link_initial_run, record_evaluation


def register(
    dataset: Path, records: Path, raw: Path, initial: Path, finetuned: Path, train_history: Path,
    finetune_history: Path, train_range: Path, finetune_range: Path, metrics: Path, evaluation: Path, params: Params,
) -> None:  # fmt: skip
    """Leave a complete MLflow store behind, and say what was compared and decided."""
    measured, figures = json.loads(metrics.read_text()), sorted(evaluation.glob("*.png"))
    runs = {
        "initial": ensure_run("train", params, dataset, initial, train_history, train_range),
        "finetuned": ensure_run("finetune", params, dataset, finetuned, finetune_history, finetune_range),
    }
    link_initial_run(runs["finetuned"], initial)
    for name, run in runs.items():
        record_evaluation(run, measured[name], figures)
    tags = {f"test_{name}": str(value) for name, value in measured["finetuned"].items()} | {
        "git_commit": find_commit(),
        "recipe": params.recipe,
        "data_source": params.data.source,
        "split": params.split.strategy,
        "flip": str(params.evaluate.flip),
        "data_sha256": sha256_file(records),
        "synthetic": str(bool(params.data.notice)),
    }
    version = register_model(runs["finetuned"], finetuned, find_image_size(params.model), tags, params.data.notice)
    table = read_records(records)
    outcome, checks = consider(version, measured["finetuned"], table[table["split"] == "test"], raw, params)
    print(pd.DataFrame([vars(check) for check in checks]).to_string(index=False))
    print(f"{MODEL_NAME}: {outcome}. {params.data.notice}")


if __name__ == "__main__":
    run_stage(register)
