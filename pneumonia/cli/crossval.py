"""Cross-validate recipes over folds and seeds; write predictions, metrics, differences and a page."""

import argparse
from pathlib import Path
from typing import Literal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `run`."""
    parser.add_argument(
        "recipes", nargs="*", default=["default"], metavar="RECIPE",
        help="file in conf/recipe; others are compared with the first",
    )  # fmt: skip
    parser.add_argument("--folds", type=int, default=5, help="5 by default")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each fold, 3 by default")
    parser.add_argument(
        "-S", dest="settings", action="append", default=[], metavar="NAME=VALUE[,VALUE]",
        help="as for dvc exp run; several values run each recipe once per value",
    )  # fmt: skip
    parser.add_argument("--head-only", action="store_true", help="stop after the first phase")
    parser.add_argument(
        "--all", dest="test", action="store_true", help="the test split takes part: the final statement"
    )
    parser.add_argument(
        "--target", choices=["label", "kind"], default="label",
        help="kind: tell normal, bacterial and viral apart by the head alone, as file names state it",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("reports/crossval"), help="folder")


def run(
    recipes: list[str], folds: int, seeds: int, settings: list[str], head_only: bool, test: bool,
    target: Literal["label", "kind"], out: Path,
) -> None:  # fmt: skip
    """Cross-validate, and print what the recipes reached."""
    from pneumonia.crossval.cross_validate import cross_validate  # TensorFlow is slow to import

    metrics = cross_validate(recipes, settings, folds, seeds, test, head_only, out, target)
    shown = metrics[metrics["metric"].isin(["roc_auc", "accuracy", "f1", "macro_roc_auc"])]
    table = shown[["recipe", "metric", "mean", "low", "high", "spread"]]
    print(f"\n{table.to_string(index=False, float_format='{:.4f}'.format)}\n\nWritten to {out}.")
