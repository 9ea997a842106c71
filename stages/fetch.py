"""Bring raw images to data/raw/<source folder>/<label>/."""

import shutil
from pathlib import Path

from pneumonia.core.files import project_home
from pneumonia.core.params import DataParams
from pneumonia.core.paths import list_files
from pneumonia.core.stage import run_stage
from pneumonia.sources.download import fetch_kaggle, fetch_mendeley
from pneumonia.sources.folder import fetch_folder
from pneumonia.sources.phantom import draw_phantoms
from pneumonia.sources.table import find_table


def fetch(out: Path, data: DataParams) -> str:
    """Draw, download or link the images of `data.source`, and put a table of patients beside them."""
    table = find_table(data)
    match data.source:
        case "phantom":
            draw_phantoms(out, data.images, data.seed)
        case "kaggle":
            fetch_kaggle(out)
        case "mendeley":
            fetch_mendeley(out, project_home() / "data" / "downloads")
        case "folder":
            fetch_folder(data.path, out)
    if table:
        shutil.copyfile(table, out / table.name)
    return f"{len(list_files(out)):,} files from source {data.source}"


if __name__ == "__main__":
    run_stage(fetch)
