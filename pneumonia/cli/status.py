"""Print the test metrics, the registered versions with an alias, and what to do next."""

import argparse
import json
from pathlib import Path

import pandas as pd

from pneumonia.core.errors import InputError
from pneumonia.core.params_file import load_params
from pneumonia.registry.audit import describe_freeze
from pneumonia.registry.versions import MODEL_NAME, describe_versions

METRICS = Path("reports/metrics.json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare no arguments."""


def run() -> None:
    """Print them.

    Raises:
        InputError: the pipeline has not run to its end.
    """
    if not METRICS.exists():
        raise InputError(f"{METRICS} does not exist.", expected="a finished pipeline", remedy="make repro")
    params = load_params()
    print(f"\nTest split ({params.split.strategy}), source {params.data.source}. {params.data.notice}")
    print(pd.DataFrame(json.loads(METRICS.read_text())).to_string(float_format="{:.5g}".format))
    print(f"\n{MODEL_NAME}:")
    for line in describe_versions():
        print(f"  {line}")
    if frozen := describe_freeze():
        print(frozen)
    print("\nCompare runs in the MLflow UI: make ui")
