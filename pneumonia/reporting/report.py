"""Collect what the report and the model card show; every number comes from the run."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from pneumonia.core.files import sha256_file
from pneumonia.core.names import CLASSES, SPLITS
from pneumonia.core.params import Params
from pneumonia.core.tables import count_unknown, read_records
from pneumonia.inference.operating_point import OperatingPoint
from pneumonia.reporting.claims import collect_claims
from pneumonia.reporting.render import render

SHOWN = {
    "roc_auc": "ROC AUC",
    "pr_auc": "Average precision",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "precision": "Positive predictive value",
    "f1": "F1",
    "accuracy": "Accuracy",
    "brier": "Brier score",
    "calibration_error": "Expected calibration error",
    "loss": "Log loss",
}


def describe_run(
    metrics: Path, point: Path, evaluation: Path, split: Path, validation: Path, splits: Path, model: Path,
    finetune: Path, params: Params,
) -> dict[str, Any]:  # fmt: skip
    """Return everything that the report and the card show, under the names that the templates use.

    Args:
        metrics: JSON of the evaluate stage.
        point: operating point of the fine-tuned model.
        evaluation: folder of the evaluate stage.
        split: JSON of the split stage.
        validation: JSON of the validate stage.
        splits: table of images with their split.
        model: the fine-tuned model.
        finetune: JSON of the finetune stage.
        params: all parameters.
    """
    records = read_records(splits)
    counts = json.loads(split.read_text())
    checked = json.loads(validation.read_text())
    leaks = {name: count for name, count in counts.items() if name not in SPLITS}
    copies = checked["images"] - checked["excluded"] - len(records) - counts["left_out"]
    return {
        "params": params,
        # What the model depends on, like the parameters of this stage in dvc.yaml.
        "flat": {k: v for k, v in params.flat().items() if not re.match("cache|register|compute.(?!precision)", k)},
        "classes": CLASSES,
        "metrics": json.loads(metrics.read_text()),
        "point": OperatingPoint.read(point),
        "intervals": _read_intervals(evaluation / "intervals.csv"),
        "shown": SHOWN,
        "calibration": pd.read_csv(evaluation / "calibration.csv").to_dict("records"),
        "subgroups": _read_subgroups(evaluation / "subgroups.csv"),
        "splits": {name: counts[name] for name in SPLITS},
        "leaks": leaks,
        "validation": checked,
        "folders": _count_folders(records),
        "model_sha256": sha256_file(model),
        "data_sha256": sha256_file(splits),
        "trained": json.loads(finetune.read_text()),
    } | collect_claims(params, leaks, copies, count_unknown(records), checked)


def _read_intervals(path: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Return value, low and high by model and metric."""
    table = pd.read_csv(path)
    return {
        str(model): rows.set_index("metric")[["value", "low", "high"]].to_dict("index")
        for model, rows in table.groupby("model")
    }  # pyright: ignore[reportReturnType]


def _read_subgroups(path: Path) -> dict[str, list[dict[str, Any]]]:
    table = pd.read_csv(path)
    return {str(by): rows.to_dict("records") for by, rows in table.groupby("by", sort=False)}  # pyright: ignore


def _count_folders(records: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the number of images and the share of pneumonia in each of the owner's folders."""
    return [
        {"folder": folder, "images": len(images), "pneumonia": float((images["label"] == CLASSES[1]).mean())}
        for folder, images in records.groupby("source_folder")
    ]


def write_report(path: Path, figures: Path, run: dict[str, Any]) -> None:
    """Write the report as one HTML file that embeds its figures and needs no network.

    Args:
        path: of the HTML file.
        figures: folder of the PNG files to embed.
        run: as `describe_run` returns it.
    """
    pictures = {file.stem: base64.b64encode(file.read_bytes()).decode() for file in sorted(figures.glob("*.png"))}
    render("report.html", path, run | {"pictures": pictures})


def write_model_card(path: Path, run: dict[str, Any]) -> None:
    """Write the model card in Markdown, with the sections of Mitchell et al. 2019 (arXiv:1810.03993)."""
    render("model_card.md", path, run)
