"""Decode every film once, balance the training split and keep all splits in one pickle."""

from pathlib import Path

import numpy as np

from pneumonia.augment import alter, build_dataset, write_dataset
from pneumonia.backbones import find_image_size
from pneumonia.figures import draw_films
from pneumonia.params import AugmentParams, DataParams, ModelParams
from pneumonia.records import CLASSES, read_records
from pneumonia.stage import run_stage


def augment(
    records: Path, raw: Path, out: Path, samples: Path, augmented: Path,
    params: AugmentParams, model: ModelParams, data: DataParams,
) -> None:  # fmt: skip
    """Write the dataset, a grid of films and a grid of altered films."""
    dataset = build_dataset(read_records(records), raw, find_image_size(model), params)
    train = dataset.train
    shown = train.take(np.concatenate([np.flatnonzero((train.labels == c) & ~train.augmented)[:4] for c in (0, 1)]))
    captions = [f"{CLASSES[c]}\n{Path(path).name}" for c, path in zip(shown.labels, shown.paths, strict=True)]
    draw_films(samples, shown.images, captions, "Training films", 4, data.notice)
    pairs = np.concatenate([shown.images[:5], alter(shown.images[:5], params)])
    draw_films(augmented, pairs, ["as it is"] * 5 + ["altered"] * 5, "What augmentation does", 5, data.notice)
    write_dataset(dataset, out)


if __name__ == "__main__":
    run_stage(augment)
