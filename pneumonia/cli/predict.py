"""Answer for files and folders, for people as a table, for machines as JSON or CSV."""

import argparse
import glob
import json
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


def find_images(patterns: Sequence[str]) -> list[Path]:
    """Return the files that are meant, each once; of folders and patterns those with an image's suffix.

    Raises:
        InputError: one of the patterns means no file.
    """
    found: list[Path] = []
    for pattern in patterns:
        path = Path(pattern)
        inside = path.rglob("*") if path.is_dir() else map(Path, glob.glob(pattern, recursive=True))
        images = [path] if path.is_file() else sorted(image for image in inside if image.suffix.lower() in SUFFIXES)
        if not images:
            raise InputError(
                f"{pattern} means no image.",
                expected=f"a file, a folder or a pattern with files that end in {', '.join(SUFFIXES)}",
                remedy="correct the path",
            )
        found += images
    return list(dict.fromkeys(found))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `run`."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="JPEG, PNG or DICOM files, folders, patterns")
    parser.add_argument("--model", default="champion", help="champion, challenger, a version, or a .keras file")
    parser.add_argument("--heatmap", type=Path, metavar="DIR", help="keep a picture of each image under its heat map")
    machine = parser.add_mutually_exclusive_group()
    for kind in ("json", "csv"):
        machine.add_argument(f"--{kind}", dest="output", action="store_const", const=kind, default="table")


def run(paths: Sequence[str], model: str, output: str, heatmap: Path | None) -> None:
    """Print what a model says of images; a file that is none is named, the others are answered.

    Args:
        paths: files, folders and patterns.
        model: see `champion.load_predictor`.
        output: table, json or csv.
        heatmap: folder for a picture of each image under its heat map.

    Raises:
        InputError: a path means nothing, or there is no such model.
        SystemExit: with status 1 if a file was refused.
    """
    images, predictor = find_images(paths), load_predictor(model)
    table = answer(predictor, images, heatmap)
    if output == "json":
        print(json.dumps({"model": predictor.name, "notice": predictor.notice, "images": table}, indent=2))
    elif output == "csv":
        pd.DataFrame(table, columns=pd.Index(COLUMNS)).to_csv(sys.stdout, index=False)
    else:
        shown = pd.DataFrame(table, columns=pd.Index(COLUMNS)).drop(columns="novelty")
        shown["novel"] = shown["novel"].map({True: "no chest radiograph?", False: ""})
        print(shown.fillna("").to_string(index=False, float_format="{:.4f}".format))
        print(f"\nModel {predictor.name}, threshold {predictor.point.threshold:.4f}. Not a medical device.")
        print(predictor.notice)
    if refused := sum(row["error"] is not None for row in table):
        print(f"{refused} of {len(images)} file(s) refused.", file=sys.stderr)
        raise SystemExit(1)


def answer(predictor: Predictor, images: Sequence[Path], heatmap: Path | None = None) -> list[dict[str, Any]]:
    """Return a row of COLUMNS for each file, None where there is nothing to say."""
    rows: list[dict[str, Any]] = []
    contents = (image.read_bytes() for image in images)
    for path, (pixels, said) in zip(
        images, tqdm(predictor.stream(contents), total=len(images), disable=None), strict=True
    ):
        known = vars(said) | {"error": None} if isinstance(said, Answer) else {"error": str(said)}
        rows.append({column: known.get(column) for column in COLUMNS} | {"path": str(path)})
        if heatmap and pixels is not None:
            with replacing(heatmap / f"{len(rows):05d}-{path.stem}.png") as beside:
                Image.fromarray(overlay(pixels, predictor.explain(pixels[None])[0])).save(beside)
    return rows
