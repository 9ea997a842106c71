"""Report and card say what the run found, with all it takes to read them inside."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from projects import run

from pneumonia.core.files import sha256_file
from pneumonia.core.params_file import load_params
from pneumonia.reporting.report import describe_run, write_model_card, write_report


class Page(HTMLParser):
    """What a page shows and what it asks for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.asked, self.open = "", list[str](), list[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.asked += [str(value) for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def describe(project: Path, **changes: Any) -> dict[str, Any]:
    """Return what the report of a finished project is made from."""
    reports = project / "reports"
    return describe_run(
        reports / "metrics.json", project / "models" / "operating_point.json", reports / "evaluation",
        reports / "split.json", reports / "validation.json", project / "data" / "splits.csv",
        project / "models" / "finetuned.keras", reports / "finetune.json", load_params(project / "params.yaml"),
    ) | changes  # fmt: skip


@pytest.fixture
def page(once: Path) -> Page:
    return Page((once / "reports" / "report.html").read_text())


@pytest.fixture
def card(once: Path) -> str:
    return (once / "reports" / "model_card.md").read_text()


def test_the_report_asks_for_nothing_outside_itself(page: Page) -> None:
    assert len(page.asked) == 7
    assert all(address.startswith("data:image/png;base64,") for address in page.asked)


def test_every_element_of_the_report_is_closed(page: Page) -> None:
    assert page.open == []


def test_the_report_shows_each_metric_with_its_interval(once: Path, page: Page) -> None:
    table = pd.read_csv(once / "reports" / "evaluation" / "intervals.csv")
    table = table[table["model"] == "finetuned"].set_index("metric")
    for metric in ("roc_auc", "sensitivity", "specificity", "brier"):
        value, low, high = (table.at[metric, column] for column in ("value", "low", "high"))
        assert f"{value:.3f} ({low:.3f} to {high:.3f})" in page.text


def test_card_and_report_count_the_same_errors(once: Path, page: Page, card: str) -> None:
    counted = json.loads((once / "reports" / "metrics.json").read_text())["finetuned"]
    ill = counted["true_positives"] + counted["false_negatives"]
    for text in (page.text, card):
        assert f"{ill} images with pneumonia" in text
        assert re.search(rf"missed {counted['false_negatives']};|{counted['false_negatives']} were missed", text)


def test_both_name_model_and_data_by_their_sha256(once: Path, page: Page, card: str) -> None:
    for name in ("models/finetuned.keras", "data/splits.csv"):
        assert sha256_file(once / name) in page.text
        assert sha256_file(once / name) in card


def test_both_say_that_phantom_images_mean_nothing_and_that_it_is_no_medical_device(page: Page, card: str) -> None:
    for text in (page.text, card):
        assert "Synthetic radiographs: no clinical meaning." in text
        assert "Not a medical device" in text


@pytest.mark.parametrize("part", ["Intended use", "Data", "Metrics", "Calibration", "Subgroups", "Limits"])
def test_the_card_has_its_parts(card: str, part: str) -> None:
    assert f"\n## {part}\n" in card


def test_a_split_that_patients_cross_is_called_flattering(once: Path, tmp_path: Path) -> None:
    leaks = {"crossing_patients": 7, "crossing_files": 0, "left_out": 0}
    write_model_card(tmp_path / "card.md", describe(once, leaks=leaks))
    write_report(tmp_path / "report.html", once / "reports" / "evaluation", describe(once, leaks=leaks))
    assert "flatter the model" in (tmp_path / "card.md").read_text()
    assert "flatter the model" in (tmp_path / "report.html").read_text()
    assert "flatter the model" not in (once / "reports" / "model_card.md").read_text()


def test_what_cannot_be_measured_is_a_dash_and_no_number(once: Path, tmp_path: Path) -> None:
    row = describe(once)["subgroups"]["kind"][0] | {"group": "virus", "specificity": float("nan")}
    write_model_card(tmp_path / "card.md", describe(once, subgroups={"kind": [row]}))
    line = next(line for line in (tmp_path / "card.md").read_text().splitlines() if "| virus |" in line)
    assert line.split("|")[6].strip() == "-"
    assert "nan" not in line


def test_names_are_no_html(once: Path, tmp_path: Path) -> None:
    rows = {"kind": [describe(once)["subgroups"]["kind"][0] | {"group": "<script>"}]}
    write_report(tmp_path / "report.html", once / "reports" / "evaluation", describe(once, subgroups=rows))
    assert "&lt;script&gt;" in (tmp_path / "report.html").read_text()


def test_another_template_reruns_report_and_nothing_before(finished: Path) -> None:
    with (finished / "pneumonia" / "templates" / "model_card.md").open("a") as template:
        template.write("\nAnother line.\n")
    done = run("dvc", "repro", cwd=finished)
    assert re.findall(r"Running stage '(\w+)'", done.stdout) == ["report", "register"]
