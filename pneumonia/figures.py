"""Draw what a person looks at: film grids, learning curves, ROC, precision-recall, confusion matrices, heat maps."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
            fpr, tpr, _ = roc_curve(labels, probabilities)
            # Four digits: sklearn's own two make a 1.00 of 0.996.
            named = f"{name} (AUC = {roc_auc_score(labels, probabilities):.4f})"
            RocCurveDisplay(fpr=fpr, tpr=tpr, name=named).plot(ax=axes.flat[0])
        axes.flat[0].plot([0, 1], [0, 1], color="grey", linestyle=":")
        axes.flat[0].set(xlabel="1 - specificity", ylabel="Sensitivity")


def draw_precision_recall(
    path: Path, labels: npt.NDArray[Any], models: Mapping[str, npt.NDArray[Any]], notice: str
) -> None:
    """Draw the precision-recall curve of each model's probabilities (n,) on the test split."""
    with _figure(path, 1, 1, (6, 6), "Precision and recall, test split", notice) as axes:
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
    """Draw the confusion matrix of each model's probabilities (n,) at its threshold on the test split."""
    with _figure(path, 1, len(models), (4.5 * len(models) + 0.5, 4.5), "Confusion matrix, test split", notice) as axes:
        for axis, (name, probabilities) in zip(axes.flat, models.items(), strict=True):
            ConfusionMatrixDisplay.from_predictions(
                labels, probabilities >= thresholds[name], display_labels=CLASSES, cmap="Blues", colorbar=False, ax=axis
            )
            axis.set_title(f"{name}, threshold {thresholds[name]:.3g}")


def draw_heatmaps(
    path: Path, films: Pixels, heatmaps: npt.NDArray[Any], captions: list[str], outcomes: npt.NDArray[Any],
    rows: Sequence[str], title: str, notice: str,
) -> None:  # fmt: skip
    """Draw heat maps over their films, a row for each outcome; one that no film had says so.

    Args:
        path: of the PNG.
        films: uint8 (n, side, side).
        heatmaps: 0 to 1 (n, side, side).
        captions: a line for each film.
        outcomes: of each film, str (n,).
        rows: all outcomes, from top to bottom.
        title: of the figure.
        notice: as for every figure.
    """
    groups = [np.flatnonzero(outcomes == outcome) for outcome in rows]
    columns = max(4, *map(len, groups))  # room for the title
    with _figure(path, len(groups), columns, (2.6 * columns + 1.2, 11.5), title, notice) as axes:
        for axis_row, outcome, group in zip(axes, rows, groups, strict=True):
            for axis in axis_row:
                axis.set(xticks=[], yticks=[], frame_on=False)
            axis_row[0].set_ylabel(outcome, fontsize="large")
            if not len(group):
                axis_row[0].text(
                    0.5, 0.5, "none", transform=axis_row[0].transAxes, ha="center", va="center", color="grey"
                )
            for axis, film in zip(axis_row, group, strict=False):
                axis.imshow(films[film], cmap="gray", vmin=0, vmax=255)
                axis.imshow(heatmaps[film], cmap="inferno", vmin=0, vmax=1, alpha=0.6 * heatmaps[film])
                axis.set_title(captions[film], fontsize="x-small", parse_math=False)
        scale = ScalarMappable(cmap="inferno")
        plt.colorbar(scale, ax=axes, shrink=0.4, label="evidence for pneumonia, share of the film's own maximum")


def draw_pairs(
    path: Path, films: Pixels, heatmaps: npt.NDArray[Any], captions: list[str], title: str, notice: str
) -> None:
    """Draw each film uint8 (n, side, side) beside its heat map 0 to 1 (n, side, side); without any, say so."""
    columns = 4  # of pairs
    rows = max(1, -(-len(films) // columns))
    with _figure(path, rows, 2 * columns, (16, 2.6 * rows + 1), title, notice) as axes:
        for axis in axes.flat:
            axis.set_axis_off()
        if not len(films):
            axes[0, 0].text(0, 0.5, "none", ha="left", va="center", color="grey")
        for plain, marked, film, heatmap, caption in zip(
            axes.flat[::2], axes.flat[1::2], films, heatmaps, captions, strict=False
        ):
            for axis in (plain, marked):
                axis.imshow(film, cmap="gray", vmin=0, vmax=255)
            marked.imshow(heatmap, cmap="inferno", vmin=0, vmax=1, alpha=0.6 * heatmap)
            plain.set_title(caption, fontsize="x-small", loc="left", parse_math=False)


def draw_reliability(path: Path, curves: Mapping[str, pd.DataFrame], notice: str) -> None:
    """Draw reliability diagrams as `calibration.trace_reliability` returns them, and how many films each bin holds."""
    with _figure(path, 2, len(curves), (5 * len(curves), 6.5), "Reliability, test split", notice) as axes:
        for (state, curve), (diagram, films) in zip(curves.items(), axes.T, strict=True):
            held = curve[curve["films"] > 0]
            share = held["share_of_pneumonia"]
            errors = [share - held["share_low"], held["share_high"] - share]
            diagram.plot([0, 1], [0, 1], color="grey", linestyle=":")
            diagram.errorbar(held["mean_probability"], share, np.clip(errors, 0, 1), fmt="o", capsize=3)
            diagram.set(title=state, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), ylabel="films with pneumonia, share")
            films.bar(curve["low"], curve["films"], curve["high"] - curve["low"], align="edge", edgecolor="white")
            films.set(xlabel="probability of pneumonia", ylabel="films", xlim=(-0.02, 1.02), yscale="symlog")


def draw_comparison(path: Path, table: pd.DataFrame, notice: str) -> None:
    """Draw test metrics, seconds of training and number of parameters of experiments, the split beside each name.

    Args:
        path: PNG to write.
        table: one row per experiment; columns experiment, split, roc_auc, f1, training_seconds, parameters, trainable.
        notice: as for every figure.
    """
    rows = np.arange(len(table))[::-1]
    names = [f"{name}\nsplit {split}" for name, split in zip(table["experiment"], table["split"], strict=True)]
    with _figure(path, 1, 3, (14, 1.5 + 0.6 * len(table)), "Test metrics, time and size", notice) as axes:
        quality, time, size = axes.flat
        for metric, label, marker in (("roc_auc", "ROC AUC", "o"), ("f1", "F1", "s")):
            quality.plot(table[metric], rows, marker, label=label)
        quality.set_yticks(rows, names)
        quality.grid(axis="x", alpha=0.3)
        time.barh(rows, table["training_seconds"], 0.5, color="tab:grey")
        time.bar_label(time.containers[0], fmt="%.0f s", padding=3)
        for values, label, colour in (("parameters", "all", "lightgrey"), ("trainable", "fine-tuned", "tab:green")):
            size.barh(rows, table[values] / 1e6, 0.5, color=colour, label=label)
        for axis, label in (
            (quality, "on the test split"),
            (time, "training, seconds"),
            (size, "parameters, millions"),
        ):
            axis.set(xlabel=label, ylim=(-0.6, len(table) - 0.4))
        for axis in (quality, size):
            axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
        for axis in (time, size):
            axis.set_yticks(rows, [])
            axis.margins(x=0.2)
