"""The Great Expectations suite over the table of images, and the Data Docs page it leaves."""
# pyright: reportPrivateImportUsage=false
# GX does not mark what its documented modules export.

from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import great_expectations as gx
import great_expectations.expectations as gxe
from great_expectations.core import ExpectationSuiteValidationResult, ExpectationValidationResult
from great_expectations.data_context.types.base import ProgressBarsConfig
from great_expectations.render.renderer import ValidationResultsPageRenderer
from great_expectations.render.view import DefaultJinjaPageView
from pandas import DataFrame

from pneumonia.core.errors import InputError
from pneumonia.core.files import replacing
from pneumonia.core.params import DataParams, ValidateParams
from pneumonia.core.tables import CLASSES, DTYPES

RELEASES = ("kaggle", "mendeley")  # Kaggle's images are those of Mendeley's version 2
IMAGES, PNEUMONIA = 5856, 4273  # released, and how many of them with that label
EXAMPLES = 5
_FORMAT: Any = dict(result_format="SUMMARY", unexpected_index_column_names=["path"], partial_unexpected_count=EXAMPLES)


@dataclass(frozen=True)
class Check:
    """What one expectation found; `success` is None when it was left out."""

    name: str
    severity: str  # critical or warning
    expected: str
    success: bool | None
    observed: str
    unexpected: int = 0  # files; patients in one_folder_per_patient
    examples: tuple[str, ...] = ()  # "path (what is wrong)", EXAMPLES of them at most

    def __str__(self) -> str:
        """Return a line that says what was expected and found, and a line per example."""
        return "\n      ".join((f"{self.name}: expected {self.expected}, found {self.observed}", *self.examples))


def check_images(
    records: DataFrame, refused: DataFrame, params: ValidateParams, data: DataParams, docs: Path
) -> list[Check]:
    """Run the suite over all images and write its Data Docs to <docs>/index.html.

    Args:
        records: images that could be read, columns as in `records.DTYPES`.
        refused: files that could not, columns path and reason.
        params: section `validate` of params.yaml.
        data: section `data`; the known counts of the release are expected of Kaggle and Mendeley only.
        docs: folder of the Data Docs; the same tables leave the same bytes.
    """
    suite = _expect_table(records, len(records) + len(refused), params)
    # The rest looks at computed columns. Where there is nothing to compute them from, the table has failed already.
    numeric = {"width", "height", "contrast"} <= set(records.select_dtypes("number"))
    if len(records) and numeric and set(DTYPES) <= set(records):
        records = _derive(records)
        suite += _expect_images(records, params, data.source)
    result = _run(suite, records)
    checks = [_read(found, refused) for found in result.results]
    if data.source not in RELEASES:
        checks.append(
            Check("release_images", "warning", f"{IMAGES:,} images", None, f"no release but source {data.source}")
        )
    _write_docs(result, checks, data.notice, docs)
    return checks


def raise_on_critical(checks: list[Check], docs: Path) -> None:
    """Raise an InputError that says which critical expectations failed, on what, and names some of the files."""
    failed = [check for check in checks if check.severity == "critical" and not check.success]
    if failed:
        raise InputError(
            f"{len(failed)} critical expectation(s) failed:" + "".join(f"\n    {check}" for check in failed),
            expected="images that meet every critical expectation",
            remedy=f"see {docs}/index.html; correct these files or data.source, or section validate of params.yaml",
        )


def _expect(severity: str, kind: type[gxe.Expectation], name: str, text: str, **domain: Any) -> gxe.Expectation:
    shown = f"{name} ({severity}): {text}"  # all that GX's page says of an expectation
    return kind(severity=severity, meta={"name": name, "expected": text}, description=shown, **domain)  # pyright: ignore


_critical, _warning = partial(_expect, "critical"), partial(_expect, "warning")


def _expect_table(records: DataFrame, files: int, params: ValidateParams) -> list[gxe.Expectation]:
    rows, exist, typed = gxe.ExpectTableRowCountToBeBetween, gxe.ExpectColumnToExist, gxe.ExpectColumnValuesToBeOfType
    enough = ceil(round(files * (1 - params.max_refused_share), 6))
    return [
        # An empty table meets every expectation about values.
        _critical(rows, "images_present", "a readable image or more as (source folder)/(label)/(file)", min_value=1),
        _critical(rows, "readable", f"at least {enough:,} of {files:,} files to be readable", min_value=enough),
    ] + [
        _critical(typed, f"column_{column}", f"column {column} of {dtype}", column=column, type_=dtype)
        if column in records
        else _critical(exist, f"column_{column}", f"column {column} of {dtype}", column=column)
        for column, dtype in DTYPES.items()
    ]


def _expect_images(records: DataFrame, params: ValidateParams, source: str) -> list[gxe.Expectation]:
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
        _critical(empty, "one_label_per_image", "no byte-identical images with two labels", column="other_label"),
        _warning(empty, "no_copies", f"no byte-identical copies ({repeated:,} images have some)", column="copy_of"),
        _warning(empty, "one_folder_per_patient", "no patient in several source folders", column="patient_in"),
    ]
    if source in RELEASES:
        suite += [
            _warning(gxe.ExpectTableRowCountToEqual, "release_images", f"the {IMAGES:,} images released", value=IMAGES),
            _warning(
                total, "release_pneumonia", released, column="pneumonia", min_value=PNEUMONIA, max_value=PNEUMONIA
            ),
        ]
    return suite


def _derive(records: DataFrame) -> DataFrame:
    """Add what expectations over several columns or rows look at; the last three are empty where all is well."""
    short, long = records[["width", "height"]].min(axis="columns"), records[["width", "height"]].max(axis="columns")
    first = records.groupby("sha256")[["path", "label"]].transform("first")
    places = records.drop_duplicates(["patient_id", "source_folder"]).groupby("patient_id")["source_folder"]
    several = places.agg(" + ".join)[places.size() > 1]
    return records.assign(
        filled=records.notna().all(axis="columns"),
        pneumonia=(records["label"] == CLASSES[1]).astype(int),
        shorter_side=short,
        aspect=(long / short).round(3),
        other_label=first["path"].where(records["label"] != first["label"]),
        copy_of=first["path"].where(records.duplicated("sha256")),
        # On the first image of a patient only, so that patients are counted and not images.
        patient_in=records["patient_id"].map(several).where(~records.duplicated("patient_id")),
    )


def _run(suite: list[gxe.Expectation], records: DataFrame) -> ExpectationSuiteValidationResult:
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    batch = context.data_sources.pandas_default.add_dataframe_asset("images").add_batch_definition_whole_dataframe(
        "all"
    )
    images = context.suites.add(gx.ExpectationSuite("images", expectations=suite))
    validation = context.validation_definitions.add(gx.ValidationDefinition(name="images", data=batch, suite=images))
    checkpoint = gx.Checkpoint(name="images", validation_definitions=[validation], result_format=_FORMAT)
    (result,) = context.checkpoints.add(checkpoint).run({"dataframe": records}).run_results.values()
    return result


def _read(result: ExpectationValidationResult, refused: DataFrame) -> Check:
    found, config = result.result, result.expectation_config
    assert config is not None and config.meta is not None
    name, column, unexpected = config.meta["name"], config.kwargs.get("column"), int(found.get("unexpected_count", 0))
    examples = [f"{row['path']} ({row[column]})" for row in found.get("partial_unexpected_index_list", [])]
    observed = str(found.get("observed_value", "something else"))
    if "unexpected_count" in found:
        observed = f"{unexpected:,} {'patient' if column == 'patient_in' else 'image'}(s) otherwise"
    if name == "readable":
        unexpected = len(refused)
        examples = [f"{path} ({reason})" for path, reason in refused.head(EXAMPLES).itertuples(index=False)]
    severity, expected = config.severity.value, config.meta["expected"]
    return Check(name, severity, expected, bool(result.success), observed, unexpected, tuple(examples))


def _write_docs(result: ExpectationSuiteValidationResult, checks: list[Check], notice: str, docs: Path) -> None:
    # GX's UpdateDataDocsAction would write run times and random ids, and pages that are blank without a network.
    for found in result.results:  # GX shows values without escaping them, so a folder's name could hold a script
        found.result = {k: v for k, v in found.result.items() if not k.startswith("partial_unexpected")}
    page = ValidationResultsPageRenderer().render(result)
    page.sections[0].content_blocks = page.sections[0].content_blocks[1:2]  # the counts, without run id and times
    html = DefaultJinjaPageView().env.from_string(_PAGE).render(page.to_json_dict(), checks=checks, notice=notice)
    with replacing(docs / "index.html") as beside:
        beside.write_text(html, encoding="utf-8")


_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Data Docs: images</title>
<style>body { font: 15px/1.4 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100% }
th, td { border: 1px solid #ccc; padding: .3rem .6rem; text-align: left; vertical-align: top }
.text-success::before { content: "\\2714"; color: #176f2c } .text-danger::before { content: "\\2718"; color: #b3261e }
</style><h1>Data Docs: images</h1><p><em>{{ notice }}</em></p>
<table><tr><th>Finding<th>Expected<th>Found<th>For example
{% for check in checks if check.unexpected or not check.success %}
<tr><td>{{ "not checked" if check.success is none else check.severity }}<td>{{ check.name }}: {{ check.expected }}
<td>{{ check.observed }}<td>{% for example in check.examples %}{{ example }}<br>{% endfor %}{% endfor %}</table>
{% for section in sections %}{% set section_loop = loop %}{% include "section.j2" %}{% endfor %}
"""
