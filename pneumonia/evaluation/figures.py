"""Draw learning curves, ROC, precision-recall, confusion matrices, reliability and heat maps.

Every figure is a PNG and shows `notice` below; an empty notice shows nothing.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.cm import ScalarMappable
from sklearn.metrics import (
    ConfusionMatrixDisplay,
    PrecisionRecallDisplay,
    RocCurveDisplay,
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from pneumonia.core.dataset import Pixels
from pneumonia.core.figure import drawing
from pneumonia.core.names import CLASSES

mpl.use("Agg")
_QUANTITIES = {"loss": "Loss", "auc": "ROC AUC", "f1": "F1", "accuracy": "Accuracy"}


def draw_learning_curves(path: Path, train_history: Path, finetune_history: Path, notice: str) -> None:
    """Draw loss, AUC, F1 and accuracy over the epochs of both phases, training against validation.

    Args:
        path: of the PNG.
        train_history: CSV of the first phase: columns epoch from 1, loss, auc, f1, accuracy, and val_ of each.
        finetune_history: the same of the second phase.
        notice: shown below.
    """
    train, finetune = pd.read_csv(train_history), pd.read_csv(finetune_history)
    history = pd.concat([train, finetune.assign(epoch=finetune["epoch"] + len(train))])
    with drawing(path, 2, 2, (10, 7), "Learning curves", notice) as axes:
        for axis, (name, label) in zip(axes.flat, _QUANTITIES.items(), strict=True):
            axis.plot(history["epoch"], history[name], "o-", markersize=3, label="training")
            axis.plot(history["epoch"], history[f"val_{name}"], "o-", markersize=3, label="validation")
            axis.axvline(len(train) + 0.5, color="grey", linestyle="--", label="fine-tuning starts")
            axis.set(xlabel="epoch", ylabel=label)
        axes.flat[0].legend()


def draw_roc(path: Path, labels: npt.NDArray[Any], models: Mapping[str, npt.NDArray[Any]], notice: str) -> None:
    """Draw the ROC curve of each model on the test split, given its probabilities of pneumonia (n,) by name."""
    with drawing(path, 1, 1, (6, 6), "ROC, test split", notice) as axes:
        for name, probabilities in models.items():
            fpr, tpr, _ = roc_curve(labels, probabilities)
            # Four digits: scikit-learn's two would turn 0.996 into 1.00.
            named = f"{name} (AUC = {roc_auc_score(labels, probabilities):.4f})"
            RocCurveDisplay(fpr=fpr, tpr=tpr, name=named).plot(ax=axes.flat[0])
        axes.flat[0].plot([0, 1], [0, 1], color="grey", linestyle=":")
        axes.flat[0].set(xlabel="1 - specificity", ylabel="Sensitivity")


def draw_precision_recall(
    path: Path, labels: npt.NDArray[Any], models: Mapping[str, npt.NDArray[Any]], notice: str
) -> None:
    """Draw the precision-recall curve of each model on the test split, given its probabilities (n,) by name."""
    with drawing(path, 1, 1, (6, 6), "Precision and recall, test split", notice) as axes:
        for name, probabilities in models.items():
            precision, recall, _ = precision_recall_curve(labels, probabilities)
            named = f"{name} (AP = {average_precision_score(labels, probabilities):.4f})"
            PrecisionRecallDisplay(precision, recall, name=named).plot(ax=axes.flat[0])
        axes.flat[0].axhline(float(np.mean(labels)), color="grey", linestyle=":")
        axes.flat[0].set(xlabel="Recall (sensitivity)", ylabel="Precision")


def draw_confusion(
    path: Path,
    labels: npt.NDArray[Any],
    models: Mapping[str, npt.NDArray[Any]],
    thresholds: Mapping[str, float],
    notice: str,
) -> None:
    """Draw the confusion matrix of each model on the test split, given its probabilities (n,) and its threshold."""
    with drawing(path, 1, len(models), (4.5 * len(models) + 0.5, 4.5), "Confusion matrix, test split", notice) as axes:
        for axis, (name, probabilities) in zip(axes.flat, models.items(), strict=True):
            ConfusionMatrixDisplay.from_predictions(
                labels, probabilities >= thresholds[name], display_labels=CLASSES, cmap="Blues", colorbar=False, ax=axis
            )
            axis.set_title(f"{name}, threshold {thresholds[name]:.3g}")


def draw_heatmaps(
    path: Path, images: Pixels, heatmaps: npt.NDArray[Any], captions: list[str], outcomes: npt.NDArray[Any],
    rows: Sequence[str], title: str, notice: str,
) -> None:  # fmt: skip
    """Draw heat maps over their images, a row for each outcome; a row without images says "none".

    Args:
        path: of the PNG.
        images: uint8 (n, side, side).
        heatmaps: 0 to 1 (n, side, side).
        captions: a line for each image, names in it as `core.figure.caption` returns them.
        outcomes: of each image, str (n,).
        rows: all outcomes, from top to bottom.
        title: of the figure.
        notice: shown below.
    """
    groups = [np.flatnonzero(outcomes == outcome) for outcome in rows]
    columns = max(4, *map(len, groups))  # room for the title
    with drawing(path, len(groups), columns, (2.6 * columns + 1.2, 11.5), title, notice) as axes:
        for axis_row, outcome, group in zip(axes, rows, groups, strict=True):
            for axis in axis_row:
                axis.set(xticks=[], yticks=[], frame_on=False)
            axis_row[0].set_ylabel(outcome, fontsize="large")
            if not len(group):
                axis_row[0].text(
                    0.5, 0.5, "none", transform=axis_row[0].transAxes, ha="center", va="center", color="grey"
                )
            for axis, image in zip(axis_row, group, strict=False):
                axis.imshow(images[image], cmap="gray", vmin=0, vmax=255)
                axis.imshow(heatmaps[image], cmap="inferno", vmin=0, vmax=1, alpha=0.6 * heatmaps[image])
                axis.set_title(captions[image], fontsize="x-small")
        scale = ScalarMappable(cmap="inferno")
        plt.colorbar(scale, ax=axes, shrink=0.4, label="evidence for pneumonia, relative to the radiograph's maximum")


def draw_pairs(
    path: Path, images: Pixels, heatmaps: npt.NDArray[Any], captions: list[str], title: str, notice: str
) -> None:
    """Draw each image uint8 (n, side, side) beside its heat map 0 to 1 (n, side, side); "none" without images."""
    columns = 4  # of pairs
    rows = max(1, -(-len(images) // columns))
    with drawing(path, rows, 2 * columns, (16, 2.6 * rows + 1), title, notice) as axes:
        for axis in axes.flat:
            axis.set_axis_off()
        if not len(images):
            axes[0, 0].text(0, 0.5, "none", ha="left", va="center", color="grey")
        for plain, marked, image, heatmap, caption in zip(
            axes.flat[::2], axes.flat[1::2], images, heatmaps, captions, strict=False
        ):
            for axis in (plain, marked):
                axis.imshow(image, cmap="gray", vmin=0, vmax=255)
            marked.imshow(heatmap, cmap="inferno", vmin=0, vmax=1, alpha=0.6 * heatmap)
            plain.set_title(caption, fontsize="x-small", loc="left")


def draw_reliability(path: Path, curves: Mapping[str, pd.DataFrame], notice: str) -> None:
    """Draw each curve of `calibration.trace_reliability`, and below it how many images each bin holds."""
    with drawing(path, 2, len(curves), (5 * len(curves), 6.5), "Reliability, test split", notice) as axes:
        for (state, curve), (diagram, images) in zip(curves.items(), axes.T, strict=True):
            held = curve[curve["images"] > 0]
            share = held["share_of_pneumonia"]
            errors = [share - held["share_low"], held["share_high"] - share]
            diagram.plot([0, 1], [0, 1], color="grey", linestyle=":")
            diagram.errorbar(held["mean_probability"], share, np.clip(errors, 0, 1), fmt="o", capsize=3)
            diagram.set(title=state, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), ylabel="radiographs with pneumonia, share")
            images.bar(curve["low"], curve["images"], curve["high"] - curve["low"], align="edge", edgecolor="white")
            images.set(xlabel="probability of pneumonia", ylabel="radiographs", xlim=(-0.02, 1.02), yscale="symlog")
