"""Assign every image to train, val or test."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from pneumonia.core.errors import EXAMPLES, InputError
from pneumonia.core.names import CLASSES, SPLITS
from pneumonia.core.params import SplitParams
from pneumonia.core.tables import count_unknown, read_table, tell_apart

PAIRS = {"sha256": "str", "other_sha256": "str"}  # of two files


def assign_splits(
    records: pd.DataFrame, params: SplitParams, each_image: bool = False, alike: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return the records with a column `split`.

    Strategies `patient` and `original` keep every patient and all copies of one picture within one split. `original`
    therefore leaves out images of the owner's train and val folders whose patient also occurs in the test folder.

    Args:
        records: merged images, columns as in DTYPES.
        params: section `split` of params.yaml.
        each_image: whether the user said that an image whose patient is unknown counts as a patient.
        alike: pairs of near duplicates, see `group_patients`.

    Raises:
        InputError: patients are unknown or too few, `original` finds no train or test folder, or a split would lack a
            class.
    """
    if params.strategy != "stratified" and not each_image:
        reason = f"split.strategy={params.strategy} keeps a patient within one split"
        require_patients(records, reason, "; or set split.strategy to stratified, whose figures flatter")
    assign = {"patient": _by_patient, "stratified": _by_image, "original": _by_folder}[params.strategy]
    table = records.assign(split=assign(records, params, alike))
    table = table[table["split"] != ""].reset_index(drop=True)
    _check(table, params)
    return table


def read_alike(path: Path, params: SplitParams) -> pd.DataFrame | None:
    """Return the pairs of near duplicates that splits and folds keep together, None if `params` do not ask for it.

    Raises:
        InputError: the file is no table of pairs.
    """
    remedy = f"copy reports/audit/pairs.csv to {path} (docs/audit.md), or set split.group_near_duplicates to false"
    return read_table(path, PAIRS, remedy) if params.group_near_duplicates else None


def group_patients(records: pd.DataFrame, alike: pd.DataFrame | None = None) -> npt.NDArray[np.int64]:
    """Return a group number per image, shape (n,): images of one patient, and of patients linked by one picture.

    Args:
        records: columns as in DTYPES.
        alike: pairs of images that link their patients too, columns as in PAIRS; of other images they mean nothing.
    """
    patients, names = pd.factorize(tell_apart(records))
    pictures, digests = pd.factorize(records["pixels_sha256"])
    links, nodes = np.stack([patients, pictures + len(names)]), len(names) + len(digests)
    if alike is not None:
        places = pd.Series(links[1], records["sha256"]).groupby(level=0).first()
        known = alike[alike.isin(places.index).all(axis="columns")]
        links = np.concatenate([links, np.stack([places[known[column]] for column in PAIRS])], axis=1)
    graph = coo_array((np.ones(links.shape[1], bool), tuple(links)), shape=(nodes, nodes))
    return connected_components(graph, directed=False)[1][patients]


def require_patients(records: pd.DataFrame, reason: str, otherwise: str = "") -> None:
    """Raise InputError if the patient of an image is unknown; name why it counts, and what else the user can do."""
    if unknown := count_unknown(records):
        examples = ", ".join(records.loc[records["patient_id"].eq(""), "path"].head(EXAMPLES))
        raise InputError(
            f"Whose {unknown:,} of {len(records):,} images are is unknown, such as {examples}.",
            expected=f"the patient of every image, as {reason}",
            remedy="set data.patients to a table, a pattern of names, folder or dicom (docs/data.md, Patients), or to "
            f"each_image if no patient has two images{otherwise}",
        )


def _by_patient(records: pd.DataFrame, params: SplitParams, alike: pd.DataFrame | None) -> npt.NDArray[Any]:
    ratios = params.ratios
    return np.array(SPLITS)[deal_patients(records, (ratios.train, ratios.val, ratios.test), params.seed, alike)]


def _by_image(records: pd.DataFrame, params: SplitParams, alike: pd.DataFrame | None) -> npt.NDArray[Any]:
    rest = params.ratios.val + params.ratios.test
    split = np.full(len(records), "train", dtype=object)
    everyone = np.arange(len(records))
    labels = records["label"].to_numpy()
    try:
        _, held_out = train_test_split(everyone, test_size=rest, stratify=labels, random_state=params.seed)
        val, test = train_test_split(
            held_out, test_size=params.ratios.test / rest, stratify=labels[held_out], random_state=params.seed
        )
    except ValueError as error:
        raise _too_few(str(error)) from None
    split[val], split[test] = "val", "test"
    return split


def _by_folder(records: pd.DataFrame, params: SplitParams, alike: pd.DataFrame | None) -> npt.NDArray[Any]:
    folder, group = records["source_folder"], pd.Series(group_patients(records, alike))
    if not {"train", "test"} <= set(folder):
        raise InputError(
            f"split.strategy is original, but the source folders are {', '.join(sorted(set(folder)))}.",
            expected="the owner's train and test folders",
            remedy="set split.strategy to patient",
        )
    tested = folder.eq("test").to_numpy()
    pool = ~tested & ~group.isin(group[tested]).to_numpy()
    ratios = params.ratios
    split = np.where(tested, "test", "").astype(object)
    split[pool] = np.array(SPLITS)[deal_patients(records[pool], (ratios.train, ratios.val), params.seed, alike)]
    split[pool & group.isin(group[folder.eq("val").to_numpy()]).to_numpy()] = "val"
    return split


def _parts(shares: tuple[float, ...]) -> list[int]:
    """Express shares as whole numbers of equal folds: the fewest that are exact, else of twenty; at least one each."""
    whole = np.array(shares) / sum(shares)
    exact = (n for n in range(len(shares), 20) if np.allclose(whole * n, np.rint(whole * n), rtol=0))
    folds = next(exact, 20)
    parts = np.maximum(1, np.rint(whole * folds)).astype(int)
    parts[parts.argmax()] += folds - parts.sum()
    return parts.tolist()


def deal_patients(
    records: pd.DataFrame, shares: tuple[float, ...], seed: int, alike: pd.DataFrame | None = None
) -> npt.NDArray[np.int64]:
    """Return the part that each image falls to, (n,): groups of patients are dealt into stratified folds, some a part.

    Raises:
        InputError: there are fewer patients of a class than folds.
    """
    groups, parts = group_patients(records, alike), _parts(shares)
    smallest = pd.Series(groups).groupby(records["label"].to_numpy()).nunique()
    if len(smallest) < 2 or smallest.min() < sum(parts):
        raise _too_few(f"{smallest.to_dict()} patients per class")
    part_of_fold = np.repeat(np.arange(len(parts)), parts)
    folds = StratifiedGroupKFold(sum(parts), shuffle=True, random_state=seed)
    part = np.zeros(len(records), np.int64)
    for number, (_, members) in enumerate(folds.split(records, records["label"], groups)):
        part[members] = part_of_fold[number]
    return part


def _too_few(what: str) -> InputError:
    return InputError(
        f"The images cannot be split: {what}.",
        expected="enough patients of both classes for every split",
        remedy="add images, or raise the smallest of split.ratios",
    )


def _check(table: pd.DataFrame, params: SplitParams) -> None:
    classes = table.groupby("split")["label"].nunique()
    if set(classes.index) != set(SPLITS) or (classes < len(CLASSES)).any():
        raise _too_few(f"a split would lack a class (classes per split: {classes.to_dict()})")
    crossing = count_crossing(table)
    if params.strategy != "stratified" and any(crossing.values()):
        raise InputError(
            f"The split leaks: {crossing}.",
            expected="every patient and file in one split",
            remedy="report this as a bug",
        )


def count_crossing(table: pd.DataFrame) -> dict[str, int | None]:
    """Count the patients and the pictures, copies as one, in more than one split.

    `crossing_patients` is None where any patient is unknown; of those that are known, `crossing_patients_at_least` do.
    """
    known = table[table["patient_id"] != ""]
    patients, files = (
        int((rows.groupby(column)["split"].nunique() > 1).sum())
        for rows, column in ((known, "patient_id"), (table, "pixels_sha256"))
    )
    return {
        "crossing_patients": None if count_unknown(table) else patients,
        "crossing_patients_at_least": patients,
        "crossing_files": files,
    }


def describe_splits(table: pd.DataFrame, images: int) -> dict[str, Any]:
    """Return counts, class shares and crossings as a DVC metric; `images` is the number before the split."""
    report: dict[str, Any] = {}
    for split in SPLITS:
        part = table[table["split"] == split]
        counts = {label: int((part["label"] == label).sum()) for label in CLASSES}
        report[split] = {
            "images": len(part),
            "patients": None if count_unknown(part) else part["patient_id"].nunique(),
            **counts,
            "normal_share": round(counts["NORMAL"] / len(part), 4),
        }
    return report | count_crossing(table) | {"left_out": images - len(table)}
