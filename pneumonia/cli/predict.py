"""Score files and folders of images: a table for people, JSON or CSV for programs."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal

from PIL import Image
from tqdm import tqdm

from pneumonia.cli.answers import COLUMNS, FORMATS, Row
from pneumonia.cli.images import find_images
from pneumonia.core.errors import InputError
from pneumonia.core.files import replacing
from pneumonia.core.paths import to_line, to_text
from pneumonia.inference.heatmaps import overlay
from pneumonia.inference.predictor import Answer, Predictor
from pneumonia.registry.load import load_predictor

NAMED = 5  # files that are no images, at most
LONGEST = 100  # bytes of an image's name in that of its heat map; file systems take 255, encrypted ones 143 in all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `run`."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="files, folders, glob patterns")
    parser.add_argument("--model", default="champion", help="champion, challenger, a version's number or a .keras file")
    parser.add_argument("--heatmap", type=Path, metavar="DIR", help="write each image under its heat map to DIR")
    formats = parser.add_mutually_exclusive_group()
    for name in ("json", "csv"):
        formats.add_argument(f"--{name}", dest="output", action="store_const", const=name, default="table")


def run(paths: Sequence[str], model: str, output: Literal["table", "json", "csv"], heatmap: Path | None) -> None:
    """Score images and print each answer as soon as it is known; what cannot be scored is a row with its error.

    Args:
        paths: files, folders and glob patterns.
        model: name of a model, see `registry.load.load_predictor`.
        output: table, json or csv.
        heatmap: folder for a picture of each image under its heat map.

    Raises:
        InputError: no path matches an image, there is no such model, or nothing can be written to `heatmap`.
        SystemExit: with status 1 if a row has an error.
    """
    images, others = find_images(paths)
    if others:
        named = ", ".join(map(to_line, others[:NAMED])) + ", ..." * (len(others) > NAMED)
        print(f"{len(others)} file(s) are no images: {named}", file=sys.stderr)
    if heatmap:
        _probe(heatmap)
    predictor = load_predictor(model)
    if failed := _print_answers(predictor, images, output, heatmap):
        print(f"{failed} of {len(images)} file(s) refused or without heat map.", file=sys.stderr)
        raise SystemExit(1)


def _probe(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"Heat maps cannot be written to {to_text(folder)}: {error.strerror}.",
            expected="a folder with write permission, or a path where one can be made",
            remedy="correct --heatmap",
        ) from None


def _print_answers(
    predictor: Predictor, images: Sequence[Path], output: Literal["table", "json", "csv"], heatmap: Path | None
) -> int:
    """Print a row for each image and return how many have an error."""
    written, failed = FORMATS[output](predictor), 0
    sys.stdout.write(written.head)
    for row in score_files(predictor, images, heatmap):
        failed += row["error"] is not None
        sys.stdout.write(written.format(row))
        sys.stdout.flush()
    print(end=written.foot, flush=True)
    return failed


def score_files(predictor: Predictor, images: Sequence[Path], heatmap: Path | None = None) -> Iterator[Row]:
    """Yield a row of COLUMNS for each file, in order; without an error it has None there.

    A file that is refused has nothing but an error; one whose heat map cannot be written to `heatmap` has both.
    """
    bar = tqdm(predictor.stream(images), total=len(images), disable=sys.stdout.isatty() or None)
    for number, (path, (pixels, answer)) in enumerate(zip(images, bar, strict=True), 1):
        known = vars(answer) if isinstance(answer, Answer) else {"error": str(answer)}
        row = {column: known.get(column) for column in COLUMNS} | {"path": to_text(path)}
        if heatmap and pixels is not None:
            try:
                with replacing(heatmap / name_heatmap(number, path)) as beside:
                    Image.fromarray(overlay(pixels, predictor.explain(pixels[None])[0])).save(beside)
            except OSError as error:
                row["error"] = f"heat map not written: {error.strerror or error}"
        yield row


def name_heatmap(number: int, image: Path) -> str:
    """Return the name of an image's heat map: the number makes it the only one, the rest is cut to what fits."""
    return f"{number:05d}-{to_text(image.stem).encode()[:LONGEST].decode(errors='ignore')}.png"
