"""Draw the page of an audit: pictures of what a person should look at, worst first."""

import base64
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from pneumonia.core.dataset import Pixels
from pneumonia.core.names import CLASSES
from pneumonia.core.params import Params
from pneumonia.inference.heatmaps import explain, overlay
from pneumonia.models.classifier import load_model
from pneumonia.reporting.render import render


def write_page(
    path: Path, labels: pd.DataFrame, pairs: pd.DataFrame, outliers: pd.DataFrame, records: pd.DataFrame,
    images: Pixels, model: Path, params: Params, shown: int,
) -> None:  # fmt: skip
    """Write a page that embeds its pictures and needs no network.

    Args:
        path: of the HTML file.
        labels: as in `Audit`.
        pairs: as in `Audit`.
        outliers: as in `Audit`.
        records: table of the split stage; its rows are those of `images`.
        images: grey values 0 to 255, uint8 (n, side, side).
        model: draws heat maps over doubtful labels if it exists and takes images of this size.
        params: all parameters.
        shown: most pictures of each kind.
    """
    rows = pd.Series(range(len(records)), index=records["path"])
    doubtful, odd = labels[labels["doubtful"]], outliers[outliers["outlier"]]
    worst = doubtful.head(shown).to_dict("records")
    chosen = images[rows[[row["image"] for row in worst]].to_numpy()]
    heatmaps = _draw_heatmaps(model, chosen)
    for row, image, heatmap in zip(worst, chosen, heatmaps, strict=True):
        row |= {"picture": _encode(image), "heatmap": heatmap, "predicted": CLASSES[row["probability"] >= 0.5]}
    twins = pairs.head(shown).to_dict("records")
    for row in twins:
        row |= {"picture": _encode(images[rows[row["image"]]]), "other": _encode(images[rows[row["other_image"]]])}
    strange = odd.head(shown).to_dict("records")
    for row in strange:
        row["picture"] = _encode(images[rows[row["image"]]])
    render("audit.html", path, {
        "params": params, "classes": CLASSES, "images": len(records), "judged": len(labels), "worst": worst,
        "doubtful": len(doubtful), "by_label": doubtful["label"].value_counts().to_dict(), "twins": twins,
        "pairs": len(pairs), "across_patients": int((pairs["patient"] != pairs["other_patient"]).sum()),
        "across_splits": int((pairs["split"] != pairs["other_split"]).sum()),
        "strange": strange, "odd": len(odd), "explained": model if any(heatmaps) else None,
    }, "pneumonia.audit")  # fmt: skip


def _draw_heatmaps(path: Path, images: Pixels) -> Sequence[str | None]:
    """Return a picture for each image, or None without a model for images of this size."""
    if not path.exists() or not len(images):
        return [None] * len(images)
    model = load_model(path)
    if model.input_shape[1] != images.shape[1]:
        return [None] * len(images)
    return [
        _encode(overlay(image, map_)) for image, map_ in zip(images, explain(model, images, "grad_cam"), strict=True)
    ]


def _encode(pixels: Pixels) -> str:
    """Return a picture as a page embeds it."""
    file: Any = BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "JPEG", quality=85)
    return base64.b64encode(file.getvalue()).decode()
