"""Commands around the pipeline: python -m pneumonia COMMAND."""

import argparse
import json
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from pneumonia import commands
from pneumonia.connection import reaching
from pneumonia.errors import InputError
from pneumonia.params import PHANTOM_NOTICE, Monitor, load_params
from pneumonia.records import write_table
from pneumonia.registry import MODEL_NAME, describe_versions


def status(metrics: Path = Path("reports/metrics.json")) -> None:
    """Print the test metrics, the registered versions with an alias, and what to do next."""
    if not metrics.exists():
        raise InputError(f"{metrics} does not exist.", expected="a finished pipeline", remedy="make repro")
    params = load_params()
    print(f"\nTest split ({params.split.strategy}), source {params.data.source}. {params.data.notice}")
    print(pd.DataFrame(json.loads(metrics.read_text())).to_string(float_format="{:.5g}".format))
    print(f"\n{MODEL_NAME}:")
    for line in describe_versions():
        print(f"  {line}")
    print("\nCompare runs in the MLflow UI: make ui")


def compare(recipes: list[str], settings: list[str], over: str, out: Path) -> None:
    """Run recipes as DVC experiments; write what they reached on the test split as a table and a figure."""
    from pneumonia.experiments import describe_experiment, run_recipes
    from pneumonia.figures import draw_comparison

    table = pd.DataFrame([describe_experiment(name) for name in run_recipes(recipes, settings, over)])
    synthetic = table["source"].eq("phantom").any()
    write_table(table, out.with_suffix(".csv"))
    draw_comparison(out.with_suffix(".png"), table, PHANTOM_NOTICE if synthetic else "")
    print(f"\n{table.to_string(index=False, float_format='{:.4g}'.format)}\n\n{out}.csv and {out}.png hold it.")


def rank(by: Monitor) -> None:
    """Print all experiments, best first by a metric on validation."""
    from pneumonia.experiments import rank_experiments

    print(rank_experiments(by).to_string(float_format="{:.4g}".format))


def retrain(**arguments: Any) -> None:
    """Retrain as CI does, see pneumonia/retraining.py."""
    from pneumonia.retraining import retrain

    retrain(**arguments)


def predict(**arguments: Any) -> None:
    """Answer for films, see pneumonia/batch.py."""
    from pneumonia.batch import predict

    predict(**arguments)


def main() -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(prog="python -m pneumonia", description=__doc__)
    added = parser.add_subparsers(required=True)
    added.add_parser("status", help=status.__doc__).set_defaults(command=status)
    compared = added.add_parser("compare", help=compare.__doc__)
    compared.add_argument("recipes", nargs="+", metavar="RECIPE", help="file in conf/recipe")
    compared.add_argument("-S", dest="settings", action="append", default=[], metavar="NAME=VALUE", help="for all")
    compared.add_argument("--over", default="", metavar="NAME=VALUE,VALUE", help="run each recipe with each value")
    compared.add_argument("--out", type=Path, default=Path("reports/comparison"), help="path without suffix")
    compared.set_defaults(command=compare)
    ranked = added.add_parser("rank", help=rank.__doc__)
    ranked.add_argument("--by", choices=get_args(Monitor), default="val_loss", help="metric of the kept epoch")
    ranked.set_defaults(command=rank)
    predicted = added.add_parser("predict", help="say of each film whether it shows pneumonia; not a medical device")
    predicted.add_argument("paths", nargs="+", metavar="PATH", help="JPEG, PNG or DICOM files, folders, patterns")
    predicted.add_argument("--model", default="champion", help="champion, challenger, a version, or a .keras file")
    predicted.add_argument("--heatmap", type=Path, metavar="DIR", help="keep a picture of each film under its heat map")
    machine = predicted.add_mutually_exclusive_group()
    for kind in ("json", "csv"):
        machine.add_argument(f"--{kind}", dest="output", action="store_const", const=kind, default="table")
    predicted.set_defaults(command=predict)
    retrained = added.add_parser("retrain", help="run the pipeline and compare its model with another commit's")
    retrained.add_argument("--base", default="HEAD", metavar="COMMIT", help="to compare with; HEAD by default")
    retrained.add_argument("--recipe", default="", help="file in conf/recipe")
    retrained.add_argument("--set", dest="settings", default="", metavar="'NAME=VALUE ...'", help="other parameters")
    retrained.add_argument("--source", default="", help="data.source")
    retrained.add_argument("--out", type=Path, default=Path("reports/retraining"), help="folder")
    retrained.set_defaults(command=retrain)
    _add_registry(added.add_parser("registry", help="versions: list, show, promote, roll back, verify, sync"))
    arguments = vars(parser.parse_args())
    try:
        with reaching():
            arguments.pop("command")(**arguments)
    except InputError as error:
        raise SystemExit(str(error)) from None


def _add_registry(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(required=True)
    listed = {"list": commands.list_registry, "show": commands.show, "promote": commands.promote_version,
              "rollback": commands.roll_back, "verify": commands.verify, "sync": commands.sync}  # fmt: skip
    added = {name: actions.add_parser(name, help=command.__doc__) for name, command in listed.items()}
    for name, command in listed.items():
        added[name].set_defaults(command=command)
    for name in ("show", "promote", "verify"):
        some = None if name == "promote" else "?"
        added[name].add_argument("version", nargs=some, default="champion", help="number, champion or challenger")
    added["promote"].add_argument("--force", action="store_true", help="in spite of a gate that failed")
    added["promote"].add_argument("--reason", default="", help="why; kept for good")
    added["rollback"].add_argument("--reason", required=True, help="why; kept for good")


if __name__ == "__main__":
    main()
