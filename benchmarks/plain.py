"""Train as a good notebook does: arrays in memory, tf.data, and `fit` through the whole model.

Run `python -m benchmarks.plain DATASET.pkl RESULT.json` in the folder of a project; it reads params.yaml. Weights,
order of images and dropout equal the pipeline's, so that results are comparable as well as times.
"""

import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import keras
import numpy as np
import tensorflow as tf

from pneumonia.core.dataset import Dataset, Split, read_dataset
from pneumonia.core.params import FitParams, Params
from pneumonia.core.params_file import load_params
from pneumonia.models.classifier import build_model
from pneumonia.models.cut import Inference, find_layer, freeze_below, get_backbone
from pneumonia.training.batches import Batches, draw_epoch
from pneumonia.training.fit import build_loss, compile_classifier, make_deterministic
from pneumonia.training.range_test import choose_learning_rate
from pneumonia.training.schedules import build_optimizer


class SameDraws(keras.callbacks.Callback):
    """Repeat the random draws of the pipeline in each epoch; `order` holds rows of the training images' variants."""

    def __init__(self, trained: keras.Model, order: tf.Variable, views: int, seed: int) -> None:
        super().__init__()
        self.trained, self.order, self.views, self.seed = trained, order, views, seed

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Set the order of images and the state of each dropout layer."""
        self.order.assign(draw_epoch(self.trained, len(self.order.numpy()), self.views, self.seed, epoch))


def wrap(model: keras.Model) -> keras.Model:
    """Return the classifier as one model that shares its layers and keeps its BatchNorm statistics.

    Keras 3.15's `fit` overrides the `training=False` with which `build_model` calls the backbone.
    """
    backbone = get_backbone(model)
    x = Inference(backbone)(model.get_layer("scale").output)
    for layer in model.layers[model.layers.index(backbone) + 1 :]:
        x = layer(x)
    return keras.Model(model.input, x)


def make_batches(split: Split, order: tf.Variable, batch_size: int) -> tf.data.Dataset:
    """Return batches of images in `order`, which is read again at the start of each epoch.

    Images stay in memory as uint8, as with `cache`. This is as fast as `cache`, `shuffle` and `batch` (0.1 s for 2,000
    images of 224 pixels), and it leaves the order to the caller.
    """
    images, labels = tf.constant(split.images[..., None]), tf.constant(split.labels.astype(np.float32)[:, None])

    def take(start: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        rows = order[start : start + batch_size]
        return tf.gather(images, rows), tf.gather(labels, rows // split.views)

    return tf.data.Dataset.range(0, len(split.labels), batch_size).map(take).prefetch(tf.data.AUTOTUNE)


def fit_phase(model: keras.Model, dataset: Dataset, params: FitParams) -> dict[str, float]:
    """Fit the trainable layers, restore the weights of the best epoch and return its metrics."""
    images = Batches(dataset.train.images, dataset.train.labels, params.batch_size)
    learning_rate, _ = choose_learning_rate(model, images, params, dataset.class_weight)
    compile_classifier(model, build_optimizer(params, learning_rate, len(images)), build_loss(params))
    orders = [tf.Variable(tf.range(len(split.labels))) for split in (dataset.train, dataset.val)]
    with TemporaryDirectory() as folder:
        best = Path(folder) / "best.weights.h5"
        history = model.fit(
            make_batches(dataset.train, orders[0], params.batch_size), epochs=params.epochs,
            validation_data=make_batches(dataset.val, orders[1], params.batch_size), class_weight=dataset.class_weight,
            callbacks=[SameDraws(model, orders[0], dataset.train.views, params.seed),
                       keras.callbacks.ModelCheckpoint(best, "val_loss", save_best_only=True, save_weights_only=True)],
            shuffle=False, verbose=2,  # pyright: ignore[reportArgumentType]
        ).history  # fmt: skip
        model.load_weights(best)
    row = int(np.argmin(history["val_loss"]))
    return {name: float(history[name][row]) for name in ("val_auc", "val_loss")}


def train_plainly(dataset: Dataset, params: Params) -> dict[str, dict[str, float]]:
    """Train both phases.

    Returns:
        By phase: metrics of the best epoch, and the seconds of building and fitting.
    """
    start = time.perf_counter()
    make_deterministic(params.train.seed)
    model = build_model(params.model)
    whole = wrap(model)
    initial = fit_phase(whole, dataset, params.train)
    middle = time.perf_counter()
    make_deterministic(params.finetune.seed)
    freeze_below(model, find_layer(get_backbone(model), params.finetune.from_layer))
    finetuned = fit_phase(whole, dataset, params.finetune)
    end = time.perf_counter()
    return {"train": initial | {"seconds": middle - start}, "finetune": finetuned | {"seconds": end - middle}}


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(train_plainly(read_dataset(Path(sys.argv[1])), load_params())))
