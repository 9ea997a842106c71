"""Write the Data Docs of a validation: one page that is the same bytes for the same tables and needs no network."""

from pathlib import Path

from great_expectations.core import ExpectationSuiteValidationResult
from great_expectations.render.renderer import ValidationResultsPageRenderer
from great_expectations.render.view import DefaultJinjaPageView

from pneumonia.core.files import replacing
from pneumonia.records.check import Check

_TEMPLATE = Path(__file__).parent / "templates" / "data_docs.html"


def write_data_docs(result: ExpectationSuiteValidationResult, checks: list[Check], notice: str, docs: Path) -> None:
    """Write <docs>/index.html: the notice, what was unexpected with examples, and Great Expectations' own tables.

    GX's UpdateDataDocsAction would write run times and random ids, and pages that are blank without a network.
    """
    for found in result.results:  # GX shows values without escaping them, and a folder's name could hold a script
        found.result = {k: v for k, v in found.result.items() if not k.startswith("partial_unexpected")}
    page = ValidationResultsPageRenderer().render(result)
    page.sections[0].content_blocks = page.sections[0].content_blocks[1:2]  # the counts, without run id and times
    # GX's own environment knows its section.j2, which the template includes.
    template = DefaultJinjaPageView().env.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    html = template.render(page.to_json_dict(), checks=checks, notice=notice)
    with replacing(docs / "index.html") as beside:
        beside.write_text(html, encoding="utf-8")
