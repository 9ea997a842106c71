"""Merge the source folders into one table of two classes."""

from pathlib import Path

from pneumonia.core.params import MergeParams
from pneumonia.core.stage import run_stage
from pneumonia.core.tables import count_unknown, read_records, write_table
from pneumonia.records.merge import merge_folders


def merge(records: Path, out: Path, params: MergeParams) -> str:
    """Write the merged table."""
    table = read_records(records)
    merged = merge_folders(table, params.drop_duplicates)
    write_table(merged, out)
    counts = f"{len(merged):,} images, {len(table) - len(merged)} exact copies dropped"
    if unknown := count_unknown(merged):
        return f"{counts}; of {unknown:,} of them the patient is unknown"
    return f"{counts}, {merged['patient_id'].nunique():,} patients"


if __name__ == "__main__":
    run_stage(merge)
