"""Print all experiments, best first by a metric on validation."""

import argparse
from typing import get_args

from pneumonia.core.params import Monitor
from pneumonia.experiments.rank import rank_experiments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `run`."""
    parser.add_argument("--by", choices=get_args(Monitor), default="val_loss", help="metric of the kept epoch")


def run(by: Monitor) -> None:
    """Print the ranking."""
    print(rank_experiments(by).to_string(float_format="{:.4g}".format))
