"""Three kinds are told apart on folds by patient, and measured as a slow loop would."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from crossvals import make_project
from image_tables import make_records
from projects import ROOT
from sklearn.metrics import accuracy_score, roc_auc_score
from stores import working_in

from pneumonia.cli.main import main
from pneumonia.core.errors import InputError
from pneumonia.core.params_file import load_params
from pneumonia.core.tables import read_splits, write_table
from pneumonia.crossval.kinds import KINDS, PROBABILITIES, measure_kinds, name_kinds
from pneumonia.evaluation.intervals import draw_weights

EVALUATE = load_params(ROOT / "params.yaml").evaluate.model_copy(update={"resamples": 100})
OUT = Path("reports/crossval/kind")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a project whose kinds were cross-validated twice."""
    folder = make_project(tmp_path_factory.mktemp("kinds"), ill=40)
    with working_in(folder):
        table = read_splits(Path("data/splits.csv"))
        for number, (row, path) in enumerate(table.loc[table["label"] == "PNEUMONIA", "path"].items()):
            named = f"all/PNEUMONIA/person{row}_{('bacteria', 'virus')[number // 2 % 2]}_1.png"
            Path("data/raw", path).rename(Path("data/raw", named))
            table.loc[row, "path"] = named  # pyright: ignore[reportArgumentType, reportCallIssue]
        write_table(table, Path("data/splits.csv"))
        for name in ("reports/crossval", "again"):
            main(["crossval", "--target", "kind", "--folds", "2", "--seeds", "2", "--out", name])
    yield folder


def read(folder: Path, name: str) -> Any:
    return pd.read_csv(folder / OUT / f"{name}.csv")


def test_every_development_image_gets_three_probabilities_of_each_seed(out: Path) -> None:
    records, predictions = read_splits(out / "data/splits.csv"), read(out, "predictions")
    development = records.loc[records["split"] != "test", "path"]
    for _, part in predictions.groupby("seed"):
        assert sorted(part["image"]) == sorted(development)
    np.testing.assert_allclose(predictions[PROBABILITIES].sum(axis=1), 1, atol=1e-5)
    assert (predictions.groupby(["seed", "patient"])["fold"].nunique() == 1).all()


def test_confusions_add_up_to_the_images(out: Path) -> None:
    predictions, confusion = read(out, "predictions"), read(out, "confusion")
    assert confusion["images"].sum() == predictions["image"].nunique()
    assert set(confusion["label"]) == set(KINDS)


def test_the_same_command_writes_the_same_bytes(out: Path) -> None:
    for name in ("predictions.csv", "metrics.csv", "confusion.csv", "confusion.png"):
        assert (out / OUT / name).read_bytes() == (out / "again/kind" / name).read_bytes()


def test_metrics_and_intervals_are_those_of_a_slow_loop() -> None:
    rng = np.random.default_rng(0)
    images, kinds = [f"i{row}" for row in range(60)], rng.integers(0, 3, 60)
    patients = pd.Series([f"p{row // 3}" for row in range(60)], images)
    scores = [rng.dirichlet(np.ones(3), 60) + np.eye(3)[kinds] * rng.uniform(0, 1, (60, 1)) for _ in range(2)]
    scores = [score / score.sum(axis=1, keepdims=True) for score in scores]
    tables = [
        pd.DataFrame(score, columns=PROBABILITIES).assign(image=images, label=np.array(KINDS)[kinds], seed=seed)
        for seed, score in enumerate(scores)
    ]

    def judge(weights: Any) -> Any:
        return np.mean([
            (accuracy_score(kinds, score.argmax(axis=1), sample_weight=weights),
             roc_auc_score(kinds, score, multi_class="ovr", sample_weight=weights))
            for score in scores
        ], axis=0)  # fmt: skip

    drawn = [judge(weights) for block in draw_weights(patients.to_numpy(), 100, EVALUATE.seed) for weights in block]
    predictions = pd.concat([tables[0], tables[1].sample(frac=1, random_state=0)])
    found = measure_kinds(predictions, patients, EVALUATE).set_index("metric")
    np.testing.assert_allclose(found["mean"], judge(None))
    np.testing.assert_allclose(found[["low", "high"]].T, np.quantile(drawn, [0.025, 0.975], axis=0))


def test_pneumonia_of_an_unnamed_kind_is_refused() -> None:
    paths = ["NORMAL/a.png", "PNEUMONIA/person1_virus_2.png", "PNEUMONIA/b.png"]
    records = make_records(path=paths, label=["NORMAL", "PNEUMONIA", "PNEUMONIA"])
    assert name_kinds(records.head(2))["label"].tolist() == ["normal", "virus"]
    with pytest.raises(InputError, match="1 images state no kind"):
        name_kinds(records)
