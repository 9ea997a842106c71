"""Assign every film to train, val or test."""

from pathlib import Path

from pneumonia.files import write_json
from pneumonia.params import SplitParams
from pneumonia.records import count_films, read_records, write_table
from pneumonia.splits import assign_splits, describe_splits
from pneumonia.stage import run_stage


def split(records: Path, out: Path, report: Path, params: SplitParams) -> None:
    """Write the table with its column `split`, and the counts as a metric."""
    table = read_records(records)
    assigned = assign_splits(table, params)
    write_table(assigned, out)
    described = describe_splits(assigned, films=len(table))
    write_json(described, report)
    print(count_films(assigned, by="split").to_string())
    print({name: value for name, value in described.items() if not isinstance(value, dict)})


if __name__ == "__main__":
    run_stage(split)
