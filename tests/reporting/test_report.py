"""Report and card show what the run found, and the report needs no other file."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from documents import Page

from pneumonia.core.files import sha256_file
from pneumonia.core.params import Params
from pneumonia.core.params_file import load_params
from pneumonia.reporting.claims import collect_claims
from pneumonia.reporting.report import describe_run, write_model_card, write_report


def describe(project: Path, **changes: Any) -> dict[str, Any]:
    """Return what report and card of a finished project show."""
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


def test_the_report_loads_nothing_outside_itself(page: Page) -> None:
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
        assert f"{ill} radiographs with pneumonia" in text
        assert re.search(rf"missed {counted['false_negatives']};|{counted['false_negatives']} were missed", text)


def test_both_name_model_and_data_by_their_sha256(once: Path, page: Page, card: str) -> None:
    for name in ("models/finetuned.keras", "data/splits.csv"):
        assert sha256_file(once / name) in page.text
        assert sha256_file(once / name) in card


def test_both_state_that_phantoms_mean_nothing_and_that_this_is_no_medical_device(page: Page, card: str) -> None:
    for text in (page.text, card):
        assert "Synthetic radiographs: no clinical meaning." in text
        assert "Not a medical device" in text


@pytest.mark.parametrize("part", ["Intended use", "Data", "Metrics", "Calibration", "Subgroups", "Limits"])
def test_the_card_has_its_parts(card: str, part: str) -> None:
    assert f"\n## {part}\n" in card


def write_both(project: Path, folder: Path, run: dict[str, Any]) -> tuple[str, str]:
    """Write report and card of a run into `folder`, and return their text."""
    write_report(folder / "report.html", project / "reports" / "evaluation", run)
    write_model_card(folder / "card.md", run)
    return Page((folder / "report.html").read_text()).text, (folder / "card.md").read_text()


@pytest.mark.parametrize("crossing", ["crossing_patients", "crossing_files", None])
def test_figures_of_a_split_that_patients_or_files_cross_are_called_flattering(
    once: Path, tmp_path: Path, crossing: str | None
) -> None:
    found = describe(once)
    leaks = found["leaks"] | ({crossing: 7, f"{crossing}_at_least": 7} if crossing else {})
    run = found | {"leaks": leaks} | collect_claims(found["params"], leaks, 0, 0, found["validation"])
    for text in write_both(once, tmp_path, run):
        assert ("flatter the model" in text) == bool(crossing)
        assert ("No test file was used for training" in text) != bool(crossing)


def test_where_patients_are_unknown_both_say_so_and_never_zero(once: Path, tmp_path: Path) -> None:
    found = describe(once)
    leaks = found["leaks"] | {"crossing_patients": None}
    splits = {name: part | {"patients": None} for name, part in found["splits"].items()}
    run = (
        found | {"leaks": leaks, "splits": splits} | collect_claims(found["params"], leaks, 0, 60, found["validation"])
    )
    for text in write_both(once, tmp_path, run):
        assert "Patients in more than one split: unknown." in text
        assert "of unknown patients" in text
        assert "of None" not in text and "| None |" not in text


@pytest.mark.parametrize("source", ["kaggle", "mendeley", "folder", "phantom"])
def test_both_claim_of_the_source_what_is_known_of_it(once: Path, tmp_path: Path, source: str) -> None:
    found = describe(once)
    plain: dict[str, Any] = found["params"].model_dump(by_alias=True)
    params = Params.model_validate(plain | {"data": plain["data"] | {"source": source}})
    run = found | {"params": params} | collect_claims(params, found["leaks"], 0, 0, found["validation"])
    public = source in ("kaggle", "mendeley")
    for text in write_both(once, tmp_path, run):
        for words in ("Kermany", "Guangzhou", "children", "graders", "10.17632"):
            assert (words in text) == public, words
        assert "aediatric" not in text or public
        assert ("does not know whose radiographs these are" in text) == (source == "folder")
        assert "one training run on one split" in text
    header = yaml.safe_load((tmp_path / "card.md").read_text().split("---")[1])
    assert header.get("datasets", []) == (["doi:10.17632/rscbjbr9sj"] if public else [])
    assert header["license"] == ("unknown" if source == "folder" else "apache-2.0")
    assert ("paediatric" in header["tags"]) == public


def test_the_calibration_error_has_no_interval(once: Path, page: Page, card: str) -> None:
    value = json.loads((once / "reports" / "metrics.json").read_text())["finetuned"]["calibration_error"]
    assert f"| Expected calibration error | {value:.3f} |" in card
    for text in (page.text, card):
        assert "It has no interval" in text
        assert "nan" not in text


def test_an_undefined_metric_is_a_dash(once: Path, tmp_path: Path) -> None:
    row = describe(once)["subgroups"]["kind"][0] | {"group": "virus", "specificity": float("nan")}
    write_model_card(tmp_path / "card.md", describe(once, subgroups={"kind": [row]}))
    line = next(line for line in (tmp_path / "card.md").read_text().splitlines() if "| virus |" in line)
    assert line.split("|")[6].strip() == "-"
    assert "nan" not in line


def test_names_are_escaped_in_html(once: Path, tmp_path: Path) -> None:
    rows = {"kind": [describe(once)["subgroups"]["kind"][0] | {"group": "<script>"}]}
    write_report(tmp_path / "report.html", once / "reports" / "evaluation", describe(once, subgroups=rows))
    assert "&lt;script&gt;" in (tmp_path / "report.html").read_text()
