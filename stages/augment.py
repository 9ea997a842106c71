"""Decode every film once, balance the training split and keep all splits in one pickle."""

from pathlib import Path

import numpy as np

from pneumonia.augment import build_dataset, view_rng, write_dataset
from pneumonia.backbones import find_image_size
from pneumonia.figures import draw_films
from pneumonia.images import read_film
from pneumonia.params import AugmentParams, DataParams, ModelParams
from pneumonia.records import CLASSES, read_records
from pneumonia.stage import run_stage
from pneumonia.views import draw_view

COLUMNS, VARIANTS = 5, 3


def augment(
    records: Path, raw: Path, out: Path, samples: Path, augmented: Path,
    params: AugmentParams, model: ModelParams, data: DataParams,
) -> None:  # fmt: skip
    """Write the dataset, a grid of films and a grid of variants."""
    size = find_image_size(model)
    dataset = build_dataset(read_records(records), raw, size, params)
    train = dataset.train
    shown = np.concatenate([np.flatnonzero((train.labels == c) & ~train.augmented)[:4] for c in (0, 1)])
    names = [Path(path).name for path in train.paths[shown]]
    captions = [f"{CLASSES[c]}\n{name}" for c, name in zip(train.labels[shown], names, strict=True)]
    draw_films(samples, train.images[shown * train.views], captions, "Training films", 4, data.notice)
    films = [read_film((raw / path).read_bytes(), params.presize or size) for path in train.paths[shown[:COLUMNS]]]
    views = [[draw_view(f, size, view_rng(params, n, v), params) for n, f in enumerate(films)] for v in range(VARIANTS)]
    grid = np.stack([*train.images[shown[:COLUMNS] * train.views], *(view for row in views for view in row)])
    captions = ["as it is"] * len(films) + ["variant"] * len(films) * VARIANTS
    draw_films(augmented, grid, captions, "What augmentation does", COLUMNS, data.notice)
    write_dataset(dataset, out)


if __name__ == "__main__":
    run_stage(augment)
