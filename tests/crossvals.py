"""A project whose images are split, small enough to cross-validate in seconds."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from image_tables import make_records
from PIL import Image
from projects import ROOT, TINY, set_params

from pneumonia.core.files import sha256_file
from pneumonia.core.names import CLASSES
from pneumonia.core.tables import write_table
from pneumonia.crossval.cross_validate import cross_validate

# Of three images for training, one is for validation: a class needs few patients.
SMALL = TINY | {
    "split": {"ratios": {"train": 0.6, "val": 0.2, "test": 0.2}}, "data": {"source": "folder"},
    "train": {"epochs": 2, "learning_rate": 1e-2, "batch_size": 8},
    "finetune": {"epochs": 2, "batch_size": 8, "schedule": "one_cycle"},
}  # fmt: skip
OUTPUTS = ("predictions.csv", "metrics.csv", "differences.csv", "folds.csv", "crossval.png", "index.html")


def make_project(folder: Path, normal: int = 20, ill: int = 32, tested: int = 8) -> Path:
    """Make a project of noisy images, brighter where ill, two of a patient; the last `tested` are the test split.

    The first patient has images of both classes. Two images of the next patients hold the same pixels.
    """
    shutil.copytree(ROOT / "conf", folder / "conf")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, folder)
    set_params(folder, SMALL)
    rng, number = np.random.default_rng(0), normal + ill
    labels = rng.permutation(np.repeat(CLASSES, [normal, ill]))
    pixels = rng.integers(0, 200, (number, 32, 32)) + 40 * (labels == CLASSES[1])[:, None, None]
    first = {name: np.flatnonzero(labels == name) for name in CLASSES}
    pixels[first[CLASSES[1]][3]] = pixels[first[CLASSES[1]][1]]
    patients = [""] * number
    for name, rows in first.items():
        for place, row in enumerate(rows):
            patients[row] = "both" if place < 1 else f"{name}{(place + 1) // 2}"
    paths = [f"all/{label}/image{row:02}.png" for row, label in enumerate(labels)]
    for path, plane in zip(paths, pixels, strict=True):
        file = folder / "data" / "raw" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(plane.astype(np.uint8)).save(file)
    digests = [sha256_file(folder / "data" / "raw" / path) for path in paths]
    records = make_records(path=paths, label=labels.tolist(), sha256=digests, patient_id=patients)
    write_table(records.assign(split=["train"] * (number - tested) + ["test"] * tested), folder / "data" / "splits.csv")
    return folder


def run_crossval(
    recipes: tuple[str, ...] = ("default",), settings: tuple[str, ...] = (), folds: int = 2, seeds: int = 2,
    test: bool = False, head_only: bool = False, out: str = "reports/crossval",
) -> pd.DataFrame:  # fmt: skip
    return cross_validate(list(recipes), list(settings), folds, seeds, test, head_only, Path(out))


def read_outputs(out: str = "reports/crossval") -> dict[str, bytes]:
    return {name: (Path(out) / name).read_bytes() for name in OUTPUTS}


def read_predictions(out: str = "reports/crossval") -> Any:
    return pd.read_csv(Path(out) / "predictions.csv")
