"""Bring raw images to data/raw/<source folder>/<label>/."""

from pathlib import Path

from pneumonia.core.files import project_home
from pneumonia.core.params import DataParams
from pneumonia.core.stage import run_stage
from pneumonia.sources.download import fetch_kaggle, fetch_mendeley
from pneumonia.sources.folder import fetch_folder
from pneumonia.sources.phantom import draw_phantoms


def fetch(out: Path, data: DataParams) -> str:
    """Draw, download or link the images of `data.source`."""
    match data.source:
        case "phantom":
            draw_phantoms(out, data.images, data.seed)
        case "kaggle":
            fetch_kaggle(out)
        case "mendeley":
            fetch_mendeley(out, project_home() / "data" / "downloads")
        case "folder":
            fetch_folder(data.path, out)
    return f"{sum(1 for _ in out.glob('*/*/*')):,} files from source {data.source}"


if __name__ == "__main__":
    run_stage(fetch)
