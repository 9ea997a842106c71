"""Print a row for each image as soon as its answer is known: a table for people, JSON or CSV for programs."""

import csv
import json
import sys
from io import StringIO
from typing import Any, Literal

from pneumonia.core.paths import to_line
from pneumonia.core.tables import choose_quoting
from pneumonia.inference.predictor import Predictor

COLUMNS = ("path", "probability", "decision", "novelty", "novel", "error")
WARNING = "Not a medical device."

Row = dict[str, Any]  # a value or None for each of COLUMNS


class Table:
    """Lines for people; the path comes last, as its length is not known."""

    def __init__(self, predictor: Predictor) -> None:
        """Show the model and its notice at the end."""
        self.predictor = predictor
        self.head = f"{'probability':11}  {'decision':10}  {'':21}path\n"

    def format(self, row: Row) -> str:
        """Return a line; an error follows the path."""
        probability = "" if row["probability"] is None else f"{row['probability']:.4f}"
        novel = "no chest radiograph?" if row["novel"] else ""
        error = f": {to_line(row['error'])}" if row["error"] else ""
        return f"{probability:>11}  {row['decision'] or '':10}  {novel:21}{to_line(row['path'])}{error}\n"

    @property
    def foot(self) -> str:
        """Return what follows the last row."""
        threshold = self.predictor.point.threshold
        return f"\nModel {self.predictor.name}, threshold {threshold:.4f}. {describe_notice(self.predictor)}\n"


class Json:
    """One document, a line for each image. Without `foot` it is not valid, so nobody takes a part of it for all."""

    foot = "\n]}\n"

    def __init__(self, predictor: Predictor) -> None:
        """Name the model and its notice first."""
        about = {"model": predictor.name, "notice": describe_notice(predictor)}
        self.head, self.before = f'{json.dumps(about)[:-1]}, "images": [', "\n"

    def format(self, row: Row) -> str:
        """Return a line without the comma that separates it from the next."""
        before, self.before = self.before, ",\n"
        return before + json.dumps(row)


class Csv:
    """COLUMNS alone; the notice goes to standard error."""

    head, foot = ",".join(COLUMNS) + "\n", ""

    def __init__(self, predictor: Predictor) -> None:
        """Print the notice."""
        print(describe_notice(predictor), file=sys.stderr)

    def format(self, row: Row) -> str:
        """Return a line, or several if a name holds a line break."""
        line = StringIO()
        csv.writer(line, lineterminator="\n", quoting=choose_quoting(row.values())).writerow(row.values())
        return line.getvalue()


FORMATS: dict[Literal["table", "json", "csv"], type[Table] | type[Json] | type[Csv]] = {
    "table": Table, "json": Json, "csv": Csv,
}  # fmt: skip


def describe_notice(predictor: Predictor) -> str:
    """Return what has to stand with every answer."""
    return f"{WARNING} {predictor.notice}".strip()
