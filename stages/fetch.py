"""Bring raw films to data/raw/<source folder>/<label>/."""

from pathlib import Path

from pneumonia.params import DataParams
from pneumonia.phantom import draw_phantoms
from pneumonia.sources import fetch_folder, fetch_kaggle, fetch_mendeley
from pneumonia.stage import run_stage


def fetch(out: Path, data: DataParams) -> None:
    """Draw, download or link the films of the chosen source."""
    match data.source:
        case "phantom":
            draw_phantoms(out, data.images, data.seed)
        case "kaggle":
            fetch_kaggle(out)
        case "mendeley":
            fetch_mendeley(out)
        case "folder":
            fetch_folder(data.path, out)


if __name__ == "__main__":
    run_stage(fetch)
