"""Run recipes as DVC experiments; write their test metrics as a table and a figure."""

import argparse
from pathlib import Path

import pandas as pd

from pneumonia.core.params import PHANTOM_NOTICE
from pneumonia.core.tables import write_table
from pneumonia.experiments.compare import describe_experiment, run_recipes
from pneumonia.experiments.figure import draw_comparison


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `run`."""
    parser.add_argument("recipes", nargs="+", metavar="RECIPE", help="file in conf/recipe")
    parser.add_argument(
        "-S", dest="settings", action="append", default=[], metavar="NAME=VALUE[,VALUE]",
        help="as for dvc exp run; several values run each recipe once per value",
    )  # fmt: skip
    parser.add_argument("--register", action="store_true", help="register the models, by default none")
    parser.add_argument("--out", type=Path, default=Path("reports/comparison"), help="path without suffix")


def run(recipes: list[str], settings: list[str], register: bool, out: Path) -> None:
    """Run the recipes, print the table, and write it to `out`.csv and `out`.png."""
    table = pd.DataFrame([describe_experiment(name) for name in run_recipes(recipes, settings, register)])
    synthetic = table["source"].eq("phantom").any()
    write_table(table, out.with_suffix(".csv"))
    draw_comparison(out.with_suffix(".png"), table, PHANTOM_NOTICE if synthetic else "")
    print(f"\n{table.to_string(index=False, float_format='{:.4g}'.format)}\n\nWritten to {out}.csv and {out}.png.")
