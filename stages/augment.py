"""Balance the training split, decode every image once and keep all splits in one pickle."""

from pathlib import Path

from pneumonia.augment.build import build_dataset
from pneumonia.augment.samples import draw_altered, draw_samples
from pneumonia.core.dataset import write_dataset
from pneumonia.core.names import SPLITS
from pneumonia.core.params import AugmentParams, DataParams, ModelParams
from pneumonia.core.stage import run_stage
from pneumonia.core.tables import read_records
from pneumonia.models.backbones import find_image_size


def augment(
    records: Path, raw: Path, out: Path, samples: Path, augmented: Path, params: AugmentParams, model: ModelParams,
    data: DataParams,
) -> str:  # fmt: skip
    """Write the data set, a figure of training images and one of altered images."""
    size = find_image_size(model)
    dataset = build_dataset(read_records(records), raw, size, params)
    draw_samples(samples, dataset.train, data.notice)
    draw_altered(augmented, dataset.train, data.notice)
    write_dataset(dataset, out)
    sizes = ", ".join(f"{name} {len(getattr(dataset, name).labels):,}" for name in SPLITS)
    copies = int(dataset.train.augmented.sum())
    return f"{sizes} images of {size} x {size} pixels, {copies:,} of them altered copies"


if __name__ == "__main__":
    run_stage(augment)
