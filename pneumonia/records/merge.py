"""Merge the source folders into one table of two classes."""

import pandas as pd


def count_unnamed(records: pd.DataFrame) -> int:
    """Count the images whose name states no patient, so that each counts as a patient of its own."""
    return int((records["patient_id"] == records["path"]).sum())


def merge_folders(records: pd.DataFrame, drop_duplicates: bool) -> pd.DataFrame:
    """Return one table of all source folders, sorted by path; of byte-identical files, optionally only the first."""
    merged = records.sort_values("path", ignore_index=True)
    return merged.drop_duplicates("sha256", ignore_index=True) if drop_duplicates else merged
