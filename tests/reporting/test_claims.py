"""Report and card claim what the source is known for and what the run checked, and nothing else."""

from itertools import product
from typing import Any

import pytest
from projects import ROOT

from pneumonia.core.params import Params
from pneumonia.core.params_file import load_params
from pneumonia.reporting.claims import KERMANY, Leaks, collect_claims

PARAMS = load_params(ROOT / "params.yaml")
SOURCES, STRATEGIES = ("phantom", "kaggle", "mendeley", "folder"), ("patient", "stratified", "original")


def leak(patients: int | None = 0, files: int = 0, least: int | None = None) -> dict[str, int | None]:
    least = (patients or 0) if least is None else least
    return {"crossing_patients": patients, "crossing_patients_at_least": least, "crossing_files": files}


NO_LEAK, UNKNOWN = leak(), leak(None)
# What may be said of the published data set only, in lower case.
OF_KERMANY = ("kermany", "guangzhou", "10.17632", "paediatric", "children", "cc by", "one hospital", "graders")


def change(source: str, strategy: str = "patient", drop_duplicates: bool = True, patients: str = "auto") -> Params:
    """Return the parameters of a run; the path of a folder is private."""
    changes = {
        "data": {"source": source, "path": "/home/someone/private", "patients": patients},
        "split": {"strategy": strategy},
        "merge": {"drop_duplicates": drop_duplicates},
    }
    plain: dict[str, Any] = PARAMS.model_dump(by_alias=True)
    return Params.model_validate(plain | {name: plain[name] | change for name, change in changes.items()})


def write(
    params: Params, leaks: Leaks, copies: int = 0, unknown: int = 0, relabelled: int = 0, excluded: int = 0
) -> str:
    corrected = {"relabelled": relabelled, "excluded": excluded}
    return str(collect_claims(params, leaks, copies, unknown, corrected)).lower()


each_run = pytest.mark.parametrize(
    ("source", "strategy", "drop_duplicates"), [*product(SOURCES, STRATEGIES, (True, False))]
)


@each_run
def test_kermanys_data_set_is_claimed_for_its_published_copies_only(source: str, strategy: str, drop_duplicates: bool):
    text = write(change(source, strategy, drop_duplicates), NO_LEAK)
    for words in OF_KERMANY:
        assert (words in text) == (source in KERMANY), words


@pytest.mark.parametrize(("relabelled", "excluded"), [(0, 0), (2, 0), (0, 3)])
def test_corrections_of_reviewers_are_counted(relabelled: int, excluded: int):
    text = write(change("folder"), NO_LEAK, relabelled=relabelled, excluded=excluded)
    assert (f"relabelled {relabelled} radiographs and excluded {excluded}" in text) == bool(relabelled or excluded)
    assert ("no reviewer corrected any" in text) != bool(relabelled or excluded)


@each_run
def test_copies_are_said_to_be_removed_where_they_were(source: str, strategy: str, drop_duplicates: bool):
    text = write(change(source, strategy, drop_duplicates), NO_LEAK, copies=12 if drop_duplicates else 0)
    assert ("12 copies, equal in every pixel, were set aside" in text) == drop_duplicates
    assert ("in every pixel, were kept" in text) != drop_duplicates


@pytest.mark.parametrize(("strategy", "grouped"), [*product(STRATEGIES, (True, False))])
def test_near_duplicates_are_said_to_be_together_where_the_split_kept_them_so(strategy: str, grouped: bool):
    params = change("folder", strategy)
    params = params.model_copy(update={"split": params.split.model_copy(update={"group_near_duplicates": grouped})})
    text, together = write(params, NO_LEAK), grouped and strategy != "stratified"
    assert ("near duplicates that the audit listed (data/near_duplicates.csv) are in one split" in text) == together
    assert ("near-identical radiographs were not searched for" in text) != together


@each_run
@pytest.mark.parametrize("leaks", [NO_LEAK, leak(7, 3), leak(files=3), leak(7)])
def test_independence_is_claimed_where_nothing_crosses_splits_only(
    source: str, strategy: str, drop_duplicates: bool, leaks: Leaks
):
    text = write(change(source, strategy, drop_duplicates), leaks)
    clean = not any(leaks.values())
    assert ("no test file was used for training" in text) == clean
    assert ("flatter the model" in text) != clean
    assert f"patients in more than one split: {leaks['crossing_patients']}." in text
    assert f"identical radiographs in more than one split: {leaks['crossing_files']}." in text
    assert "any choice" not in text


@each_run
def test_figures_are_those_of_one_run_on_one_split(source: str, strategy: str, drop_duplicates: bool):
    assert "one training run on one split (seeds: split 123" in write(
        change(source, strategy, drop_duplicates), NO_LEAK
    )


@pytest.mark.parametrize("rule", ["auto", "each_image", "patients.csv", "(?P<patient>.)"])
def test_unknown_patients_are_counted_and_nothing_is_claimed_of_them(rule: str):
    params = change("folder", patients=rule)
    text = write(params, UNKNOWN, unknown=1234)
    assert "patients in more than one split: unknown." in text
    assert "whether patients are in more than one split is unknown: the figures may flatter the model" in text
    assert "intervals are too narrow if a patient has several" in text
    assert ("1,234 radiographs are is unknown" in text) == (rule != "each_image")


def test_copies_in_more_than_one_split_count_where_patients_are_unknown():
    text = write(change("folder"), leak(None, 3), unknown=1)
    assert "3 identical radiographs occur in more than one split, so the figures flatter" in text


def test_patients_known_to_cross_count_where_others_are_unknown():
    text = write(change("folder"), leak(None, least=2), unknown=1)
    assert "patients in more than one split: at least 2, and unknown how many more." in text
    assert "not independent of training and validation: 2 patients or more occur in more than one split" in text


@pytest.mark.parametrize(
    ("rule", "source"),
    [("auto", "file name"), ("folder", "folder"), ("dicom", "the patientid of their dicom files"),
     ("patients.csv", "a table of patients"), ("(?P<patient>.)", "a pattern of file names")],
)  # fmt: skip
def test_what_tells_patients_apart_is_named(rule: str, source: str):
    assert f"told apart by {source} only." in write(change("folder", patients=rule), NO_LEAK)


def test_of_a_folder_nothing_is_claimed_and_its_path_is_not_named():
    text = write(change("folder"), NO_LEAK)
    assert "does not know whose radiographs these are" in text
    assert "'unknown'" in text  # licence of the model
    assert "private" not in text


def test_phantoms_show_no_patient():
    text = write(change("phantom"), NO_LEAK)
    assert "synthetic radiographs that the project drew (1,200, seed 7)" in text
    assert "they show no patient" in text
