"""Merge the source folders into one table of two classes, corrected as reviewers decided."""

from pathlib import Path

from pneumonia.core.params import MergeParams
from pneumonia.core.stage import run_stage
from pneumonia.core.tables import count_unknown, read_records, write_table
from pneumonia.records.corrections import apply_corrections, find_corrected, read_corrections
from pneumonia.records.merge import merge_folders


def merge(records: Path, corrections: Path, out: Path, params: MergeParams) -> str:
    """Write the merged table."""
    table, corrected = read_records(records), read_corrections(corrections)
    kept = apply_corrections(table, corrected)
    merged = merge_folders(kept, params.drop_duplicates)
    write_table(merged, out)
    counts = f"{len(merged):,} images, {len(kept) - len(merged)} exact copies dropped"
    if len(corrected):
        relabelled = find_corrected(table, corrected)["action"].eq("relabel").sum()
        counts += f", {relabelled} relabelled and {len(table) - len(kept)} excluded by reviewers"
    if unknown := count_unknown(merged):
        return f"{counts}; of {unknown:,} of them the patient is unknown"
    return f"{counts}, {merged['patient_id'].nunique():,} patients"


if __name__ == "__main__":
    run_stage(merge)
