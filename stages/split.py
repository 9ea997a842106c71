"""Assign every image to train, val or test."""

from pathlib import Path

from pneumonia.core.files import write_json
from pneumonia.core.names import SPLITS
from pneumonia.core.params import DataParams, SplitParams
from pneumonia.core.stage import run_stage
from pneumonia.core.tables import read_records, write_table
from pneumonia.records.splits import assign_splits, describe_splits, read_alike


def split(records: Path, near_duplicates: Path, out: Path, report: Path, params: SplitParams, data: DataParams) -> str:
    """Write the table with a column `split`, and its counts as a metric."""
    table = read_records(records)
    assigned = assign_splits(table, params, data.patients == "each_image", read_alike(near_duplicates, params))
    write_table(assigned, out)
    described = describe_splits(assigned, images=len(table))
    write_json(described, report)
    sizes = ", ".join(f"{name} {described[name]['images']:,}" for name in SPLITS)
    least, known = described["crossing_patients_at_least"], described["crossing_patients"] is not None
    crossing = least if known else f"at least {least}, as some are unknown" if least else "unknown"
    return f"{sizes}; patients in several splits: {crossing}; {described['left_out']} images left out"


if __name__ == "__main__":
    run_stage(split)
