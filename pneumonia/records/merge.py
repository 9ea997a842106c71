"""Merge the source folders into one table of two classes."""

import pandas as pd


def merge_folders(records: pd.DataFrame, drop_duplicates: bool) -> pd.DataFrame:
    """Return one table of all source folders, sorted by path; of copies of one picture, optionally only the first."""
    merged = records.sort_values("path", ignore_index=True)
    return merged.drop_duplicates("pixels_sha256", ignore_index=True) if drop_duplicates else merged
