"""Run the pipeline and judge its model against that of another commit, as CI does."""

import argparse
from pathlib import Path

from pneumonia.experiments.retrain import retrain as run

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `run`."""
    parser.add_argument("--base", default="HEAD", metavar="COMMIT", help="to compare with; HEAD by default")
    parser.add_argument("--recipe", default="", help="file in conf/recipe")
    parser.add_argument("--set", dest="settings", default="", metavar="'NAME=VALUE ...'", help="other parameters")
    parser.add_argument("--source", default="", help="data.source")
    parser.add_argument("--out", type=Path, default=Path("reports/retraining"), help="folder")
