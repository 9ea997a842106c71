"""Measure the least that training can take: each image passes each part at the part's highest rate.

Run `python -m benchmarks.floor DATASET.pkl RESULT.json` in the folder of a project; it reads params.yaml.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from pneumonia.core.dataset import Dataset, read_dataset
from pneumonia.core.params import FitParams, Params
from pneumonia.core.params_file import load_params
from pneumonia.models.classifier import build_model
from pneumonia.models.cut import cut_model, find_layer, freeze_below, get_backbone
from pneumonia.training.fit import make_deterministic

REPEATS, SECONDS = 3, 0.5  # best of this many loops of at least this length


@dataclass(frozen=True)
class Pass:
    """The passes of images through one part of the model.

    Attributes:
        what: the part and the work.
        images: passes of single images over all epochs.
        rate: images per second in a tight loop.
    """

    what: str
    images: int
    rate: float

    @property
    def seconds(self) -> float:
        """Seconds that all passes take at that rate."""
        return self.images / self.rate


def list_passes(dataset: Dataset, params: Params) -> list[Pass]:
    """Measure all passes of both phases, in float32.

    Fine-tuning starts from the activations that the initial phase cached first, as with `finetune.from_layer: auto`.
    """
    make_deterministic(params.train.seed)
    model, batch_size = build_model(params.model), params.compute.batch_size
    head = cut_model(model)
    images = len(dataset.train.labels) + len(dataset.val.labels)
    passes = [Pass(f"{part.name}, frozen, once", images, measure_forward(part, batch_size)) for part in head.frozen]
    passes += list_epochs("initial", head.trainable, dataset, params.train)
    freeze_below(model, find_layer(get_backbone(model), params.finetune.from_layer))
    return passes + list_epochs("fine-tuning", cut_model(model).trainable, dataset, params.finetune)


def list_epochs(phase: str, trainable: keras.Model, dataset: Dataset, params: FitParams) -> list[Pass]:
    """Measure the passes through the trainable part."""
    times, train, val = params.epochs, len(dataset.train.labels), len(dataset.val.labels)
    step, forward = measure_training(trainable, params), measure_forward(trainable, params.batch_size)
    return [
        Pass(f"{phase}, training, {times} epochs", times * train, step),
        Pass(f"{phase}, validation, {times} epochs", times * val, forward),
    ]


def measure_forward(model: keras.Model, batch_size: int) -> float:
    """Return images per second of the forward pass on a random batch in memory."""
    x, forward = draw_batch(model, batch_size), tf.function(lambda x: model(x, training=False))
    return measure_rate(lambda: forward(x), batch_size)


def measure_training(model: keras.Model, params: FitParams) -> float:
    """Return images per second of a training step on a random batch in memory."""
    x, y = draw_batch(model, params.batch_size), tf.ones((params.batch_size, 1))
    optimizer, loss = keras.optimizers.Adam(), keras.losses.BinaryCrossentropy(from_logits=True)
    weights: list[Any] = model.trainable_variables
    optimizer.build(weights)

    @tf.function
    def step() -> None:
        with tf.GradientTape() as tape:
            error: Any = loss(y, model(x, training=True))
        optimizer.apply(tape.gradient(error, [weight.value for weight in weights]), weights)

    return measure_rate(step, params.batch_size)


def draw_batch(model: keras.Model, batch_size: int) -> tf.Tensor:
    """Return random input, 0 to 1, float32 (batch_size, *input shape)."""
    return tf.random.stateless_uniform((batch_size, *model.input_shape[1:]), (0, 0))


def measure_rate(step: Callable[[], Any], images: int) -> float:
    """Return images per second in the best of REPEATS loops; each `step` processes `images`."""
    step()  # traces
    return max(_loop(step, images) for _ in range(REPEATS))


def _loop(step: Callable[[], Any], images: int) -> float:
    steps, start = 0, time.perf_counter()
    while (seconds := time.perf_counter() - start) < SECONDS or not steps:
        step()
        steps += 1
    return steps * images / seconds


if __name__ == "__main__":
    measured = list_passes(read_dataset(Path(sys.argv[1])), load_params())
    Path(sys.argv[2]).write_text(json.dumps([asdict(row) | {"seconds": row.seconds} for row in measured]))
