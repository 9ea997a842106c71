"""Render pages from Jinja templates."""

from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape

from pneumonia.core.files import replacing


def render(template: str, path: Path, run: dict[str, Any], package: str = "pneumonia.reporting") -> None:
    """Write a page, whole or not at all.

    Args:
        template: file in the folder `templates` of `package`; HTML is escaped, and an undefined name is an error.
        path: of the page.
        run: values by the names that the template uses.
        package: that holds the folder `templates`; pages extend base.html of this one.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("pneumonia.reporting")]),
        autoescape=select_autoescape(["html"]), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {
        "interval": _format_interval, "bounds": _format_bounds, "triple": _format_column, "share": _format_share
    }  # fmt: skip
    with replacing(path) as beside:
        beside.write_text(environment.get_template(template).render(run))


def _format_interval(measured: dict[str, float], sign: bool = False) -> str:
    """Return a value with its bounds, the value alone without bounds, a dash for NaN."""
    digits = f"{'+' if sign else ''}.3f"
    bounds = "" if pd.isna(measured["low"]) else f" ({_format_bounds(measured, sign)})"
    return "-" if pd.isna(measured["value"]) else f"{measured['value']:{digits}}{bounds}"


def _format_bounds(measured: dict[str, float], sign: bool = False) -> str:
    digits = f"{'+' if sign else ''}.3f"
    return f"{measured['low']:{digits}} to {measured['high']:{digits}}"


def _format_column(row: dict[str, float], name: str) -> str:
    """Return a metric of a row that holds value and bounds side by side."""
    return _format_interval({"value": row[name], "low": row[f"{name}_low"], "high": row[f"{name}_high"]})


def _format_share(value: float) -> str:
    return f"{100 * value:.1f} %"
