"""Merge the source folders into one table of two classes."""

from pathlib import Path

from pneumonia.core.params import MergeParams
from pneumonia.core.stage import run_stage
from pneumonia.core.tables import read_records, write_table
from pneumonia.records.merge import count_unnamed, merge_folders


def merge(records: Path, out: Path, params: MergeParams) -> str:
    """Write the merged table."""
    table = read_records(records)
    merged = merge_folders(table, params.drop_duplicates)
    write_table(merged, out)
    patients, unnamed = merged["patient_id"].nunique(), count_unnamed(merged)
    unknown = f", {unnamed:,} images whose name states no patient count as one patient each" if unnamed else ""
    return f"{len(merged):,} images of {patients:,} patients, {len(table) - len(merged)} exact copies dropped{unknown}"


if __name__ == "__main__":
    run_stage(merge)
