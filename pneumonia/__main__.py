"""Commands around the pipeline: python -m pneumonia COMMAND."""

import argparse
import json
from pathlib import Path

import pandas as pd

from pneumonia.errors import InputError
from pneumonia.params import load_params
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


def main() -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(prog="python -m pneumonia", description=__doc__)
    commands = parser.add_subparsers(required=True)
    commands.add_parser("status", help=status.__doc__).set_defaults(command=status)
    try:
        parser.parse_args().command()
    except InputError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
