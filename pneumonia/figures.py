"""Draw what a person looks at: film grids, learning curves, ROC, precision-recall, confusion matrices."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib import pyplot as plt
from sklearn.metrics import ConfusionMatrixDisplay, PrecisionRecallDisplay, RocCurveDisplay

from pneumonia.files import replacing
from pneumonia.images import Pixels
from pneumonia.records import CLASSES

mpl.use("Agg")
_QUANTITIES = {"loss": "Loss", "auc": "ROC AUC", "f1": "F1", "accuracy": "Accuracy"}


@contextmanager
def _figure(path: Path, rows: int, columns: int, size: tuple[float, float], title: str, notice: str) -> Iterator[Any]:
    """Yield axes (rows, columns) and write the figure as PNG; `notice` stands below it."""
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    figure.suptitle(title)
    if notice:
        figure.supxlabel(notice, fontsize="medium", color="firebrick")
    try:
        yield axes
        with replacing(path) as beside:
            figure.savefig(beside, dpi=100, metadata={"Software": None})
    finally:
        plt.close(figure)


def draw_films(path: Path, films: Pixels, captions: list[str], title: str, columns: int, notice: str) -> None:
    """Draw films uint8 (n, side, side) row by row with a caption each."""
    rows = -(-len(films) // columns)
    with _figure(path, rows, columns, (2.5 * columns, 2.8 * rows + 0.6), title, notice) as axes:
        for axis in axes.flat:
            axis.set_axis_off()
        for axis, film, caption in zip(axes.flat, films, captions, strict=False):
            axis.imshow(film, cmap="gray", vmin=0, vmax=255)
            axis.set_title(caption, fontsize="small")


def draw_learning_curves(path: Path, train: pd.DataFrame, finetune: pd.DataFrame, notice: str) -> None:
    """Draw loss, AUC, F1 and accuracy of both phases in one row each, training against validation."""
    history = pd.concat([train, finetune.assign(epoch=finetune["epoch"] + len(train))])
    with _figure(path, 2, 2, (10, 7), "Learning curves", notice) as axes:
        for axis, (name, label) in zip(axes.flat, _QUANTITIES.items(), strict=True):
            axis.plot(history["epoch"], history[name], "o-", markersize=3, label="training")
            axis.plot(history["epoch"], history[f"val_{name}"], "o-", markersize=3, label="validation")
            axis.axvline(len(train) + 0.5, color="grey", linestyle="--", label="fine-tuning starts")
            axis.set(xlabel="epoch", ylabel=label)
        axes.flat[0].legend()


def draw_roc(path: Path, labels: npt.NDArray[Any], models: Mapping[str, npt.NDArray[Any]], notice: str) -> None:
    """Draw the ROC curve of each model's probabilities (n,) on the test split."""
    with _figure(path, 1, 1, (6, 6), "ROC, test split", notice) as axes:
        for name, probabilities in models.items():
            RocCurveDisplay.from_predictions(labels, probabilities, name=name, ax=axes.flat[0])
        axes.flat[0].plot([0, 1], [0, 1], color="grey", linestyle=":")
        axes.flat[0].set(xlabel="1 - specificity", ylabel="Sensitivity")


def draw_precision_recall(
    path: Path, labels: npt.NDArray[Any], models: Mapping[str, npt.NDArray[Any]], notice: str
) -> None:
    """Draw the precision-recall curve of each model's probabilities (n,) on the test split."""
    with _figure(path, 1, 1, (6, 6), "Precision and recall, test split", notice) as axes:
        for name, probabilities in models.items():
            PrecisionRecallDisplay.from_predictions(labels, probabilities, name=name, ax=axes.flat[0])
        axes.flat[0].axhline(float(np.mean(labels)), color="grey", linestyle=":")
        axes.flat[0].set(xlabel="Recall (sensitivity)", ylabel="Precision")


def draw_confusion(
    path: Path, labels: npt.NDArray[Any], models: Mapping[str, npt.NDArray[Any]], threshold: float, notice: str
) -> None:
    """Draw the confusion matrix of each model's probabilities (n,) at `threshold` on the test split."""
    title = f"Confusion matrix at threshold {threshold:g}, test split"
    with _figure(path, 1, len(models), (4.5 * len(models) + 0.5, 4.5), title, notice) as axes:
        for axis, (name, probabilities) in zip(axes.flat, models.items(), strict=True):
            ConfusionMatrixDisplay.from_predictions(
                labels, probabilities >= threshold, display_labels=CLASSES, cmap="Blues", colorbar=False, ax=axis
            )
            axis.set_title(name)
