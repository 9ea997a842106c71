"""What README and docs say is there, is there."""

import re
from pathlib import Path

import pytest
from projects import ROOT, run

from pneumonia.core.params_file import load_params
from pneumonia.models.backbones import BACKBONES

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_that_is_named_exists(page: Path) -> None:
    assert set(re.findall(r"\bmake ([a-z][a-z-]+)", page.read_text())) <= TARGETS


def test_every_parameter_is_explained() -> None:
    text = (ROOT / "docs" / "parameters.md").read_text()
    names = {name.replace("split.ratios.train", "split.ratios") for name in load_params(ROOT / "params.yaml").flat()}
    missing = [n for n in names if f"`{n}`" not in text and not n.startswith(("finetune.", "split.ratios."))]
    assert missing == []


def test_every_backbone_is_explained() -> None:
    text = (ROOT / "docs" / "recipes.md").read_text() + (ROOT / "docs" / "parameters.md").read_text()
    assert [name for name in BACKBONES if f"`{name}`" not in text] == []


def test_make_lists_its_targets() -> None:
    assert "run the pipeline: dvc repro" in run("make", cwd=ROOT).stdout


@pytest.mark.parametrize("lock", sorted(path.name for path in ROOT.glob("requirements*.txt")))
def test_requirements_are_pinned_and_hashed_and_name_no_registry(lock: str) -> None:
    text = (ROOT / lock).read_text()
    packages = re.findall(r"^([a-z0-9._-]+)==\S+(?: ; .+)? \\\n    --hash=sha256:", text, re.MULTILINE)
    assert len(packages) == len(re.findall(r"^[a-z0-9]", text, re.MULTILINE))
    assert "://" not in text and "index-url" not in text
