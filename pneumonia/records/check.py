"""The outcome of one expectation, and the error that critical ones end in."""

from dataclasses import dataclass
from pathlib import Path

from great_expectations.core import ExpectationValidationResult
from pandas import DataFrame

from pneumonia.core.errors import EXAMPLES, InputError

_COUNTED = {"patient_in": "patient", "unknown": "line", "repeated": "line", "malformed": "line"}  # by column


@dataclass(frozen=True)
class Check:
    """The outcome of one expectation.

    Attributes:
        name: of the expectation.
        severity: critical or warning.
        expected: a phrase.
        success: None where the expectation does not apply.
        observed: a phrase.
        unexpected: how many files, or patients of one_folder_per_patient, are not as expected.
        examples: of these, as "path (what is wrong)", EXAMPLES at most.
    """

    name: str
    severity: str
    expected: str
    success: bool | None
    observed: str
    unexpected: int = 0
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return a line with what was expected and found, and a line per example."""
        return "\n      ".join((f"{self.name}: expected {self.expected}, found {self.observed}", *self.examples))


def read_check(result: ExpectationValidationResult, refused: DataFrame) -> Check:
    """Return what Great Expectations found; the examples of `readable` are refused files, columns path and reason."""
    found, config = result.result, result.expectation_config
    assert config is not None and config.meta is not None
    name, column, unexpected = config.meta["name"], config.kwargs.get("column"), int(found.get("unexpected_count", 0))
    examples = [f"{row['path']} ({row[column]})" for row in found.get("partial_unexpected_index_list", [])]
    observed = str(found.get("observed_value", "something else"))
    if "unexpected_count" in found:
        observed = f"{unexpected:,} unexpected {_COUNTED.get(column or '', 'image')}(s)"
    if name == "readable":
        unexpected = len(refused)
        examples = [f"{path} ({reason})" for path, reason in refused.head(EXAMPLES).itertuples(index=False)]
    severity, expected = config.severity.value, config.meta["expected"]
    return Check(name, severity, expected, bool(result.success), observed, unexpected, tuple(examples))


def raise_on_critical(checks: list[Check], docs: Path) -> None:
    """Raise an InputError if a critical expectation failed; it names all that did, with examples."""
    failed = [check for check in checks if check.severity == "critical" and not check.success]
    if failed:
        raise InputError(
            f"{len(failed)} critical expectation(s) failed:" + "".join(f"\n    {check}" for check in failed),
            expected="images that meet every critical expectation",
            remedy=f"see {docs}/index.html; correct the files, data.source, or section validate of params.yaml",
        )
