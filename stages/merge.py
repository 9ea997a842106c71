"""Merge the owner's folders into one table of two classes."""

from pathlib import Path

from pneumonia.params import MergeParams
from pneumonia.records import count_films, count_unnamed, merge_folders, read_records, write_table
from pneumonia.stage import run_stage


def merge(records: Path, out: Path, params: MergeParams) -> None:
    """Write the merged table and print what it holds."""
    table = read_records(records)
    merged = merge_folders(table, params.drop_duplicates)
    write_table(merged, out)
    print(count_films(merged, by="source_folder").to_string())
    print(f"{len(table) - len(merged)} exact duplicates dropped, {merged['patient_id'].nunique()} patients;")
    print(f"{count_unnamed(merged)} films whose name follows no known pattern count as a patient each.")


if __name__ == "__main__":
    run_stage(merge)
