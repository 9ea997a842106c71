"""The audit of a cross-validated project names every image once, worst first, and shows what is doubtful."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from crossvals import make_project, run_crossval
from documents import Page
from stores import working_in

from pneumonia.audit.audit_images import Audit, audit_images
from pneumonia.cli.main import main
from pneumonia.core.errors import InputError
from pneumonia.core.params_file import load_params
from pneumonia.core.tables import read_splits
from pneumonia.models.classifier import build_model, save_model

OUT, PREDICTIONS = Path("reports/audit"), Path("reports/crossval/predictions.csv")


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a project that was cross-validated and audited, with a model for heat maps."""
    folder = make_project(tmp_path_factory.mktemp("audited"))
    with working_in(folder):
        run_crossval(head_only=True)
        doubt(5)
        main(["audit", "--show", "3"])
    yield folder


@pytest.fixture(autouse=True)
def project(audited: Path, tmp_path: Path) -> Iterator[None]:
    """Work in a copy of it."""
    shutil.copytree(audited, tmp_path, dirs_exist_ok=True)
    with working_in(tmp_path):
        yield


def doubt(images: int) -> None:
    """Let the models be sure of the other class of some images."""
    table = predict()
    chosen = table["image"].isin(table["image"].unique()[:images])
    sure = np.where(table["label"] == 1, 4.0, -4.0) * np.where(chosen, -1, 1)
    table.assign(log_odds=sure).to_csv(PREDICTIONS, index=False)


def predict() -> Any:
    return pd.read_csv(PREDICTIONS)


def read(name: str) -> Any:
    return pd.read_csv(OUT / f"{name}.csv")


def audit(predictions: str | Path = PREDICTIONS, recipe: str | None = None) -> Audit:
    return audit_images(Path(predictions), recipe, 3, Path("again"))


def test_labels_of_cross_validated_images_are_judged_worst_first() -> None:
    labels, records = read("labels"), read_splits(Path("data/splits.csv"))
    assert sorted(labels["image"]) == sorted(records.loc[records["split"] != "test", "path"])
    assert set(labels["image"].head(5)) == set(predict()["image"].unique()[:5])
    assert labels["doubtful"].head(3).all() and not labels["doubtful"].tail(-5).any()
    assert labels["seeds"].eq(2).all()


def test_every_image_is_examined_for_duplicates_and_outliers_the_test_split_too() -> None:
    assert len(read("outliers")) == len(read_splits(Path("data/splits.csv")))
    assert read("outliers")["score"].is_monotonic_increasing


def test_a_pair_names_patients_and_splits_of_both_images() -> None:
    expected = {"image", "sha256", "patient", "split", "label"}
    assert set(read("pairs").columns) == expected | {f"other_{name}" for name in expected} | {"distance"}


def test_the_page_shows_the_worst_with_label_and_prediction_and_asks_a_person() -> None:
    page, labels = Page((OUT / "index.html").read_text()), read("labels")
    assert f"{labels['doubtful'].sum()} are doubtful" in page.text
    for place, row in labels.head(5).iterrows():
        assert (f"{row['image']}predicted" in page.text.replace("\n", "")) == (place < 3)
    assert "data/corrections.csv" in page.text
    assert all(address.startswith("data:") for address in page.asked)


def test_the_same_inputs_leave_the_same_bytes() -> None:
    audit()
    for name in ("labels.csv", "pairs.csv", "outliers.csv", "index.html"):
        assert (Path("again") / name).read_bytes() == (OUT / name).read_bytes()


def test_a_model_draws_heat_maps_over_doubtful_images() -> None:
    save_model(build_model(load_params().model), Path("models/finetuned.keras"))
    audit()
    assert Path("again/index.html").read_text().count("heat map of ") == 3


def test_what_is_missing_or_of_other_images_is_refused_in_three_parts() -> None:
    with pytest.raises(InputError, match="make crossval"):
        audit("nowhere.csv")
    with pytest.raises(InputError, match="one of default"):
        audit(recipe="patient_views")
    table = predict()
    table.drop(columns="seed").to_csv("less.csv", index=False)
    with pytest.raises(InputError, match="holds no predictions"):
        audit("less.csv")
    table.assign(sha256="f" * 64).to_csv("other.csv", index=False)
    with pytest.raises(InputError, match="predicts 44 images"):
        audit("other.csv")
