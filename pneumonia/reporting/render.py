"""Render a page from a template."""

from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from pneumonia.core.files import replacing


def render(template: str, path: Path, run: dict[str, Any], package: str = "pneumonia.reporting") -> None:
    """Write a page from a file in the folder `templates` of a package, whole or not at all."""
    environment = Environment(
        loader=PackageLoader(package), autoescape=select_autoescape(["html"]), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {
        "interval": _format_interval, "bounds": _format_bounds, "triple": _format_column, "share": _format_share
    }  # fmt: skip
    with replacing(path) as beside:
        beside.write_text(environment.get_template(template).render(run))


def _format_interval(measured: dict[str, float], sign: bool = False) -> str:
    """Return value and bounds, a dash for what is not defined."""
    digits = f"{'+' if sign else ''}.3f"
    return "-" if pd.isna(measured["value"]) else f"{measured['value']:{digits}} ({_format_bounds(measured, sign)})"


def _format_bounds(measured: dict[str, float], sign: bool = False) -> str:
    digits = f"{'+' if sign else ''}.3f"
    low, high = measured["low"], measured["high"]
    return "no interval" if pd.isna(low) else f"{low:{digits}} to {high:{digits}}"


def _format_column(row: dict[str, float], name: str) -> str:
    """Return a metric of a table that holds value and bounds side by side."""
    return _format_interval({"value": row[name], "low": row[f"{name}_low"], "high": row[f"{name}_high"]})


def _format_share(value: float) -> str:
    return f"{100 * value:.1f} %"
