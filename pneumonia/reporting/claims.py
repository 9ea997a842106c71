"""Word what a report may claim: the source as it was given, what the run checked, and what neither can tell.

Plain sentences, shared by report and model card. Nothing here is typed in for one run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pneumonia.core.names import is_table
from pneumonia.core.params import Params

KERMANY = ("kaggle", "mendeley")  # both publish the radiographs of Kermany et al. 2018
Leaks = Mapping[str, int | None]
_NARROW = ", and intervals are too narrow if a patient has several"
_CODE = "Code: Apache-2.0."


@dataclass(frozen=True)
class Source:
    """What is known of radiographs because of where they come from.

    Attributes:
        origin: who they show and who published them.
        licence: of code, weights and radiographs.
        licence_id: of the model, as Hugging Face names licences in a card's header.
        dataset: DOI of a published data set; empty for none.
        tags: for the card's header.
        purpose: what comparing models on these radiographs can show.
        limits: a sentence each.
    """

    origin: str
    licence: str
    licence_id: str
    dataset: str
    tags: tuple[str, ...]
    purpose: str
    limits: tuple[str, ...]


def describe_source(params: Params) -> Source:
    """Return what may be said of the radiographs; of a folder that is next to nothing."""
    data = params.data
    if data.source in KERMANY:
        return Source(
            f"The data set of Kermany et al. 2018 (doi:10.17632/rscbjbr9sj), from {data.source.capitalize()}: children "
            "of one to five years at one hospital, Guangzhou Women and Children's Medical Center.",
            f"{_CODE} Weights: Apache-2.0. Radiographs by Kermany et al.: CC BY 4.0.",
            "apache-2.0", "doi:10.17632/rscbjbr9sj", ("paediatric",), "comparing methods on one public data set",
            (
                "One hospital, one age group, labels given by graders from the radiograph; no second examination "
                "confirms them.",
                "Kermany et al. had an additional expert check the labels of their test folder only: results on it and "
                "on a resplit of all radiographs cannot be compared.",
                "No radiograph of another hospital was used.",
            ),
        )  # fmt: skip
    if data.source == "phantom":
        return Source(
            f"Synthetic radiographs that the project drew ({data.images:,}, seed {data.seed}). They show no patient.",
            f"{_CODE} Weights: Apache-2.0. The radiographs are drawn by the code.",
            "apache-2.0", "", ("synthetic",), "trying the pipeline without data of patients",
            ("No figure here says anything about radiographs of patients.",),
        )  # fmt: skip
    return Source(
        "A folder that the user named (data.source=folder). The project does not know whose radiographs these are, "
        "which hospital took them, how patients were selected or who labelled them.",
        f"{_CODE} Weights and radiographs: unknown to the project; the rights in the radiographs decide.",
        "unknown", "", (), "comparing methods on the radiographs of this folder",
        (
            "Hospitals, age of the patients and quality of the labels are unknown to the project.",
            "Whether the test radiographs come from other hospitals than the training radiographs is unknown.",
        ),
    )  # fmt: skip


def describe_checks(params: Params, leaks: Leaks, copies: int, unknown: int, corrected: Mapping[str, int]) -> list[str]:
    """Return what the run found out about copies, patients and the independence of the test split, a sentence each.

    Args:
        params: all parameters.
        leaks: crossing_patients, crossing_patients_at_least and crossing_files of the split report; None is unknown.
        copies: radiographs set aside as another had the same pixels.
        unknown: radiographs whose patient is unknown.
        corrected: how many radiographs reviewers `relabelled` and `excluded`.
    """
    removed = (
        f"{copies:,} copies, equal in every pixel, were set aside."
        if params.merge.drop_duplicates
        else "Copies, equal in every pixel, were kept (merge.drop_duplicates=false)."
    )
    return [
        _describe_corrections(corrected["relabelled"], corrected["excluded"]),
        f"{removed} {_describe_near_duplicates(params)}",
        _describe_patients(params.data.patients, unknown),
        f"Patients in more than one split: {_count(leaks)}. "
        f"Identical radiographs in more than one split: {leaks['crossing_files']:,}.",
    ]


def _describe_corrections(relabelled: int, excluded: int) -> str:
    if not relabelled and not excluded:
        return "Labels are those of the source; no reviewer corrected any (data/corrections.csv)."
    return (
        f"Reviewers relabelled {relabelled:,} radiographs and excluded {excluded:,} (data/corrections.csv). "
        "If they had seen what a model predicts, figures on these radiographs flatter that model."
    )


def _describe_near_duplicates(params: Params) -> str:
    if params.split.group_near_duplicates and params.split.strategy != "stratified":
        return "Near duplicates that the audit listed (data/near_duplicates.csv) are in one split."
    return "Near-identical radiographs were not searched for."


def _describe_patients(rule: str, unknown: int) -> str:
    if rule == "each_image":
        return f"Each radiograph counts as a patient (data.patients=each_image); nothing checked that{_NARROW}."
    sources = {"auto": "file name", "folder": "folder", "dicom": "the PatientID of their DICOM files"}
    source = sources.get(rule, "a table of patients" if is_table(rule) else "a pattern of file names")
    doubt = f"; whose {unknown:,} radiographs are is unknown, so each of these counts as a patient{_NARROW}"
    return f"Patients are told apart by {source} only{doubt if unknown else ''}."


def _count(leaks: Leaks) -> str:
    """Return how many patients cross, as far as it is known."""
    least = f"{leaks['crossing_patients_at_least']:,}"
    unknown = "unknown" if least == "0" else f"at least {least}, and unknown how many more"
    return least if leaks["crossing_patients"] is not None else unknown


def describe_independence(leaks: Leaks) -> str:
    """Return how far the test split is independent of training and of every choice, as far as the run checked it."""
    patients, least, files = (leaks[f"crossing_{name}"] for name in ("patients", "patients_at_least", "files"))
    if least or files:
        counts = ((least, "patients" if patients == least else "patients or more"), (files, "identical radiographs"))
        found = " and ".join(f"{number:,} {what}" for number, what in counts if number)
        return (
            f"The test split is not independent of training and validation: {found} occur in more than one split, so "
            "the figures flatter the model."
        )
    used = "No test file was used for training or for choosing temperature and threshold"
    if patients is None:
        return f"{used}, but whether patients are in more than one split is unknown: the figures may flatter the model."
    return f"{used}, and no patient is in more than one split."


def describe_scope(params: Params) -> str:
    """Return from how many runs and splits the figures come."""
    seeds = f"split {params.split.seed}, augmentation {params.augment.seed}, training {params.train.seed}"
    return (
        f"All figures come from one training run on one split (seeds: {seeds}, fine-tuning {params.finetune.seed}). "
        "How far they vary over seeds and splits was not measured."
    )


def collect_claims(
    params: Params, leaks: Leaks, copies: int, unknown: int, corrected: Mapping[str, int]
) -> dict[str, Any]:
    """Return everything that the templates claim about data and run, under the names that they use."""
    return {
        "source": describe_source(params),
        "checks": describe_checks(params, leaks, copies, unknown, corrected),
        "independence": describe_independence(leaks),
        "scope": describe_scope(params),
    }
