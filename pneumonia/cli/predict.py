"""Score files and folders of images: a table for people, JSON or CSV for programs."""

import argparse
import glob
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image
from tqdm import tqdm

from pneumonia.core.errors import InputError
from pneumonia.core.files import replacing
from pneumonia.inference.heatmaps import overlay
from pneumonia.inference.predictor import Answer, Predictor
from pneumonia.registry.load import load_predictor

SUFFIXES = (".jpeg", ".jpg", ".png", ".dcm", ".dicom")
COLUMNS = ("path", "probability", "decision", "novelty", "novel", "error")
WARNING = "Not a medical device."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `run`."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="JPEG, PNG or DICOM files, folders, glob patterns")
    parser.add_argument("--model", default="champion", help="champion, challenger, a version's number or a .keras file")
    parser.add_argument("--heatmap", type=Path, metavar="DIR", help="write each image under its heat map to DIR")
    formats = parser.add_mutually_exclusive_group()
    for name in ("json", "csv"):
        formats.add_argument(f"--{name}", dest="output", action="store_const", const=name, default="table")


def run(paths: Sequence[str], model: str, output: str, heatmap: Path | None) -> None:
    """Score images and print the answers; name each file that cannot be scored and score the others.

    Args:
        paths: files, folders and glob patterns.
        model: name of a model, see `registry.load.load_predictor`.
        output: table, json or csv.
        heatmap: folder for a picture of each image under its heat map.

    Raises:
        InputError: a path matches no image, or there is no such model.
        SystemExit: with status 1 if a file was refused.
    """
    images, predictor = find_images(paths), load_predictor(model)
    rows = score_files(predictor, images, heatmap)
    print_answers(predictor, rows, output)
    if refused := sum(row["error"] is not None for row in rows):
        print(f"{refused} of {len(images)} file(s) refused.", file=sys.stderr)
        raise SystemExit(1)


def find_images(patterns: Sequence[str]) -> list[Path]:
    """List the files that paths and glob patterns stand for, each once.

    A file named in full counts whatever its suffix, one found in a folder or by a pattern if its suffix is an image's.
    What only looks like an image, and a folder that cannot be listed, is in the list too: nothing is left out silently.

    Raises:
        InputError: a path or pattern matches no image.
    """
    return list(dict.fromkeys(image for pattern in patterns for image in _expand(pattern)))


def _expand(pattern: str) -> list[Path]:
    if os.path.isdir(pattern):
        found = _list_folder(Path(pattern))
    elif os.path.lexists(pattern):
        found = [Path(pattern)]
    else:
        found = sorted(filter(_looks_like_image, map(Path, glob.glob(pattern, recursive=True))))
    if not found:
        raise InputError(
            f"{pattern} matches no image.",
            expected=f"a file, or a folder or pattern with files that end in {', '.join(SUFFIXES)}",
            remedy="correct the path",
        )
    return found


def _list_folder(folder: Path) -> list[Path]:
    locked: list[Path] = []
    entries = [folder]
    for place, folders, files in os.walk(folder, onerror=lambda error: locked.append(Path(error.filename))):
        entries += [Path(place, name) for name in (*folders, *files)]
    return sorted({*filter(_looks_like_image, entries), *locked})


def _looks_like_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def score_files(predictor: Predictor, images: Sequence[Path], heatmap: Path | None = None) -> list[dict[str, Any]]:
    """Return a row of COLUMNS for each file, in order; a refused one has an error, any other None there."""
    rows: list[dict[str, Any]] = []
    answers = tqdm(predictor.stream(images), total=len(images), disable=None)
    for path, (pixels, answer) in zip(images, answers, strict=True):
        known = vars(answer) if isinstance(answer, Answer) else {"error": str(answer)}
        # Linux lets a name be any bytes; what is not UTF-8 could not be printed.
        name = os.fsencode(path).decode(errors="backslashreplace")
        rows.append({column: known.get(column) for column in COLUMNS} | {"path": name})
        if heatmap and pixels is not None:
            with replacing(heatmap / f"{len(rows):05d}-{path.stem}.png") as beside:
                Image.fromarray(overlay(pixels, predictor.explain(pixels[None])[0])).save(beside)
    return rows


def print_answers(predictor: Predictor, rows: list[dict[str, Any]], output: str) -> None:
    """Print rows of COLUMNS as table, json or csv, with the notice; that of csv goes to standard error."""
    notice = f"{WARNING} {predictor.notice}".strip()
    table = pd.DataFrame(rows, columns=pd.Index(COLUMNS))
    if output == "json":
        print(json.dumps({"model": predictor.name, "notice": notice, "images": rows}, indent=2))
    elif output == "csv":
        table.to_csv(sys.stdout, index=False)
        print(notice, file=sys.stderr)
    else:
        table["novel"] = table["novel"].map({True: "no chest radiograph?", False: ""})
        shown = table.drop(columns="novelty").fillna("")
        print(shown.to_string(index=False, float_format="{:.4f}".format))
        print(f"\nModel {predictor.name}, threshold {predictor.point.threshold:.4f}. {notice}")
