"""The Great Expectations suite over the table of images."""
# pyright: reportPrivateImportUsage=false
# GX does not mark what its documented modules export.

from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import great_expectations as gx
import great_expectations.expectations as gxe
from great_expectations.core import ExpectationSuiteValidationResult
from great_expectations.data_context.types.base import ProgressBarsConfig
from pandas import DataFrame, Series

from pneumonia.core.errors import EXAMPLES
from pneumonia.core.names import CLASSES
from pneumonia.core.params import DataParams, ValidateParams
from pneumonia.core.tables import DTYPES
from pneumonia.records.check import Check, read_check
from pneumonia.records.corrections import judge_corrections
from pneumonia.records.data_docs import write_data_docs

RELEASES = ("kaggle", "mendeley")  # Kaggle's images are those of Mendeley's version 2
IMAGES, PNEUMONIA = 5856, 4273  # of the release, and how many of them are labelled PNEUMONIA
_KNOWN = "the patient of every image is known"
_FORMAT: Any = dict(result_format="SUMMARY", unexpected_index_column_names=["path"], partial_unexpected_count=EXAMPLES)


def check_images(
    records: DataFrame, refused: DataFrame, params: ValidateParams, data: DataParams, docs: Path,
    corrections: DataFrame | None = None,
) -> list[Check]:  # fmt: skip
    """Run the suite and write its Data Docs to <docs>/index.html.

    Args:
        records: the images that can be read, columns as in `tables.DTYPES`.
        refused: the files that cannot, columns as in `tables.REFUSED_DTYPES`.
        params: section `validate` of params.yaml.
        data: section `data`; only Kaggle and Mendeley have a release whose counts are known.
        docs: folder of the Data Docs; the same tables leave the same bytes.
        corrections: columns as in `corrections.COLUMNS`.
    """
    suite = _expect_table(records, len(records) + len(refused), params)
    # The rest looks at derived columns. A table that they cannot be derived from has failed already.
    numeric = {"width", "height", "contrast"} <= set(records.select_dtypes("number"))
    if len(records) and numeric and set(DTYPES) <= set(records):
        records = _derive(records)
        suite += _expect_images(records, params, data)
    result = _run(suite, records)
    if corrections is not None and len(corrections) and set(DTYPES) <= set(records):
        _add(result, _run(_expect_corrections(), judge_corrections(corrections, records)))
    checks = [read_check(found, refused) for found in result.results]
    if data.source not in RELEASES:
        unknown = f"source {data.source}, of which no release is known"
        checks.append(Check("release_images", "warning", f"{IMAGES:,} images", None, unknown))
    if data.patients == "each_image":
        checks.append(Check("patient_known", "warning", _KNOWN, None, "data.patients=each_image, which nothing checks"))
    write_data_docs(result, checks, data.notice, docs)
    return checks


def _expect(severity: str, kind: type[gxe.Expectation], name: str, text: str, **domain: Any) -> gxe.Expectation:
    shown = f"{name} ({severity}): {text}"  # all that GX's page shows of an expectation
    return kind(severity=severity, meta={"name": name, "expected": text}, description=shown, **domain)  # pyright: ignore


_critical, _warning = partial(_expect, "critical"), partial(_expect, "warning")


def _expect_table(records: DataFrame, files: int, params: ValidateParams) -> list[gxe.Expectation]:
    rows, exist, typed = gxe.ExpectTableRowCountToBeBetween, gxe.ExpectColumnToExist, gxe.ExpectColumnValuesToBeOfType
    enough = ceil(round(files * (1 - params.max_refused_share), 6))
    return [
        # An empty table meets every expectation about values.
        _critical(rows, "images_present", "a readable image at (source folder)/(label)/(file)", min_value=1),
        _critical(rows, "readable", f"at least {enough:,} of {files:,} files to be readable", min_value=enough),
    ] + [
        _critical(typed, f"column_{column}", f"column {column} of {dtype}", column=column, type_=dtype)
        if column in records
        else _critical(exist, f"column_{column}", f"column {column} of {dtype}", column=column)
        for column, dtype in DTYPES.items()
    ]


def _expect_images(records: DataFrame, params: ValidateParams, data: DataParams) -> list[gxe.Expectation]:
    among, between = gxe.ExpectColumnValuesToBeInSet, gxe.ExpectColumnValuesToBeBetween
    total, empty = gxe.ExpectColumnSumToBeBetween, gxe.ExpectColumnValuesToBeNull
    side, aspect, contrast = params.min_side, params.max_aspect, params.min_contrast
    least = max(1, ceil(round(len(records) * params.min_class_share, 6)))
    most, repeated = len(records) - least, records["copy_of"].nunique()
    share, released = f"{least:,} to {most:,} images of {CLASSES[1]}", f"{PNEUMONIA:,} images of {CLASSES[1]}"
    suite = [
        _critical(among, "cells_filled", "no empty cell in the table of images", column="filled", value_set=[True]),
        _critical(among, "labels_known", f"labels {' or '.join(CLASSES)}", column="label", value_set=list(CLASSES)),
        _critical(total, "class_share", share, column="pneumonia", min_value=least, max_value=most),
        _critical(between, "large_enough", f"both sides >= {side} pixels", column="shorter_side", min_value=side),
        _critical(between, "plausible_aspect", f"longer / shorter <= {aspect:g}", column="aspect", max_value=aspect),
        _critical(between, "not_blank", f"contrast >= {contrast:g}", column="contrast", min_value=contrast),
        _critical(empty, "one_label_per_image", "no picture with two labels", column="other_label"),
        _warning(empty, "no_copies", f"no copies of one picture ({repeated:,} images have some)", column="copy_of"),
        *_expect_frontal_chests(),
        _warning(empty, "one_folder_per_patient", "no patient in several source folders", column="patient_in"),
    ]
    if data.patients != "each_image":
        suite.append(_warning(empty, "patient_known", _KNOWN, column="patient_unknown"))
    if data.source in RELEASES:
        ill = {"column": "pneumonia", "min_value": PNEUMONIA, "max_value": PNEUMONIA}
        suite += [
            _warning(gxe.ExpectTableRowCountToEqual, "release_images", f"the {IMAGES:,} images released", value=IMAGES),
            _warning(total, "release_pneumonia", released, **ill),
        ]
    return suite


def _expect_frontal_chests() -> list[gxe.Expectation]:
    among, unlike = gxe.ExpectColumnValuesToBeInSet, gxe.ExpectColumnValuesToNotMatchRegex
    return [
        _warning(unlike, "full_depth", "no 16-bit image that seems to hold fewer bits", column="mode", regex="bits$"),
        # Only DICOM states these, and not always.
        _warning(among, "radiographs", "modality CR, DX or RG", column="modality", value_set=["", "CR", "DX", "RG"]),
        _warning(among, "frontal_views", "view AP or PA", column="view", value_set=["", "AP", "PA"]),
        _warning(among, "chests", "body part CHEST", column="body_part", value_set=["", "CHEST"]),
    ]


def _expect_corrections() -> list[gxe.Expectation]:
    empty = gxe.ExpectColumnValuesToBeNull
    complete = "relabel with another label, or exclude without one; reviewer, reason and date"
    return [
        _critical(empty, "corrections_known", "corrections of images that were read", column="unknown"),
        _critical(empty, "corrections_once", "one correction of a picture", column="repeated"),
        _critical(empty, "corrections_complete", complete, column="malformed"),
    ]


def _derive(records: DataFrame) -> DataFrame:
    """Add what expectations over several columns or rows look at; the last four are empty where all is well."""
    short, long = records[["width", "height"]].min(axis="columns"), records[["width", "height"]].max(axis="columns")
    first = records.groupby("pixels_sha256")[["path", "label"]].transform("first")
    unknown = records["patient_id"].eq("")
    known = records[~unknown].drop_duplicates(["patient_id", "source_folder"])
    places = known.groupby("patient_id")["source_folder"]
    several = places.agg(" + ".join)[places.size() > 1]
    return records.assign(
        filled=records.notna().all(axis="columns"),
        pneumonia=(records["label"] == CLASSES[1]).astype(int),
        shorter_side=short,
        aspect=(long / short).round(3),
        other_label=first["path"].where(records["label"] != first["label"]),
        copy_of=first["path"].where(records.duplicated("pixels_sha256")),
        patient_unknown=Series("patient unknown", records.index).where(unknown),
        # Only on a patient's first image, so that patients are counted and not images.
        patient_in=records["patient_id"].map(several).where(~records.duplicated("patient_id")),
    )


def _add(result: ExpectationSuiteValidationResult, other: ExpectationSuiteValidationResult) -> None:
    """Let one page show the results of two tables."""
    result.results += other.results
    counts: Any = result.statistics
    for name in ("evaluated_expectations", "successful_expectations", "unsuccessful_expectations"):
        counts[name] += other.statistics[name]


def _run(suite: list[gxe.Expectation], records: DataFrame) -> ExpectationSuiteValidationResult:
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.pandas_default.add_dataframe_asset("images")
    batch = asset.add_batch_definition_whole_dataframe("all")
    images = context.suites.add(gx.ExpectationSuite("images", expectations=suite))
    validation = context.validation_definitions.add(gx.ValidationDefinition(name="images", data=batch, suite=images))
    checkpoint = gx.Checkpoint(name="images", validation_definitions=[validation], result_format=_FORMAT)
    (result,) = context.checkpoints.add(checkpoint).run({"dataframe": records}).run_results.values()
    return result
