"""Merging makes one table of all folders, in an order that depends on the files alone."""

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_tables import make_records

from pneumonia.records.merge import merge_folders


@pytest.mark.parametrize(("drop", "kept"), [(True, ["a", "b"]), (False, ["a", "b", "c"])])
def test_merging_drops_copies_of_a_picture_only_if_told_to(drop: bool, kept: list[str]):
    records = make_records(path=["a", "b", "c"], pixels_sha256=["1", "2", "1"])
    assert merge_folders(records, drop)["path"].tolist() == kept


def test_merging_keeps_the_folder_that_each_image_comes_from():
    records = make_records(path=["b", "a", "c"], source_folder=["train", "test", "val"])
    assert merge_folders(records, drop_duplicates=True)["source_folder"].tolist() == ["test", "train", "val"]


@settings(derandomize=True, max_examples=20, deadline=None)
@given(order=st.permutations(range(6)), drop=st.booleans())
def test_merging_does_not_depend_on_the_order_of_the_rows(order: list[int], drop: bool):
    records = make_records(pixels_sha256=["1", "2", "1", "3", "2", "4"])
    pd.testing.assert_frame_equal(merge_folders(records.iloc[order], drop), merge_folders(records, drop))
