"""A model is registered once and becomes champion only when it deserves it."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from pneumonia.augment import read_split
from pneumonia.files import sha256_file
from pneumonia.metrics import compute_metrics
from pneumonia.model import build_model, load_model, save_model
from pneumonia.params import ModelParams, Params, load_params
from pneumonia.phantom import draw_phantoms
from pneumonia.predict import predict_probabilities
from pneumonia.records import scan_films
from pneumonia.registry import (
    MODEL_NAME,
    Check,
    check_challenger,
    consider,
    describe_versions,
    find_alias,
    find_version,
    measure_version,
    register_model,
)
from pneumonia.tracking import connect

ROOT = Path(__file__).parent.parent
REPOSITORY = load_params(ROOT / "params.yaml")
NOTICE = REPOSITORY.data.notice
NO_FLOORS = {"min_roc_auc": 0.0, "min_sensitivity": 0.0, "min_specificity": 0.0, "margin": 0.0}


BETTER = f"models:/{MODEL_NAME}/2"


class Model(NamedTuple):
    path: Path
    size: int  # of its input
    metrics: dict[str, Any]  # on the test films


class Films(NamedTuple):
    raw: Path
    records: pd.DataFrame


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Films:
    raw = tmp_path_factory.mktemp("raw")
    draw_phantoms(raw, 48, seed=1)
    return Films(raw, scan_films(raw)[0])


@pytest.fixture(scope="module")
def models(films: Films, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    """Return a model that ranks films badly and one, of another size, that ranks them well."""
    folder, found = tmp_path_factory.mktemp("models"), {}
    for name, size in (("worse", 48), ("better", 32)):
        keras.utils.set_random_seed(1)
        model = build_model(ModelParams(backbone="tiny", weights="none", image_size=size, dropout=0.0, head="sigmoid"))
        test = read_split(films.records, films.raw, size)
        kernel, bias = model.get_layer("logit").get_weights()
        measured = compute_metrics(test.labels, predict_probabilities(model, test.images), 0.5)
        if (measured["roc_auc"] > 0.5) != (name == "better"):  # a head of the other sign ranks the other way round
            model.get_layer("logit").set_weights([-kernel, bias])
            measured = compute_metrics(test.labels, predict_probabilities(model, test.images), 0.5)
        save_model(model, folder / f"{name}.keras")
        found[name] = Model(folder / f"{name}.keras", size, measured)
    return found


@pytest.fixture(scope="module")
def registered(models: dict[str, Model], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store in which both models are registered, version 1 the worse and 2 the better, neither champion."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(tmp_path_factory.mktemp("registered"))
        for model in models.values():
            register(model)
        mlflow.set_tracking_uri(None)  # pyright: ignore[reportArgumentType]
        return Path.cwd() / "mlruns/mlflow.db"


@pytest.fixture(autouse=True)
def project(registered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in a project with a copy of that store."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlruns").mkdir()
    shutil.copy(registered, tmp_path / "mlruns")
    yield tmp_path
    mlflow.set_tracking_uri(None)  # pyright: ignore[reportArgumentType]


def make_params(source: str = "phantom", **gates: float) -> Params:
    data = REPOSITORY.data.model_copy(update={"source": source})
    register = REPOSITORY.register_.model_copy(update=NO_FLOORS | gates)
    return REPOSITORY.model_copy(update={"data": data, "register_": register})


def register(model: Model) -> ModelVersion:
    """Register a model of synthetic films as the stage does."""
    with mlflow.start_run(experiment_id=connect()) as run:
        pass
    tags = {"recipe": "default", "test_roc_auc": str(model.metrics["roc_auc"]), "synthetic": "True"}
    return register_model(run, model.path, model.size, tags, NOTICE)


def offer(model: Model, films: Films, params: Params | None = None) -> tuple[str, list[Check]]:
    """Ask for the promotion of a registered model, as one of the films of `params`."""
    params = params or make_params()
    version = find_version(sha256_file(model.path))
    assert version
    synthetic = str(bool(params.data.notice))
    mlflow.MlflowClient().set_model_version_tag(MODEL_NAME, version.version, "synthetic", synthetic)
    return consider(version, model.metrics, films.records, films.raw, params)


def find_champion() -> int | str | None:
    champion = find_alias("champion")
    return champion and champion.version


def failed(checks: list[Check]) -> list[str]:
    return [check.what for check in checks if not check.passed]


def test_a_file_that_is_registered_again_keeps_its_version(models: dict[str, Model]):
    assert [register(models[name]).version for name in ("worse", "better")] == [1, 2]
    assert len(mlflow.MlflowClient().search_model_versions(f"name = '{MODEL_NAME}'")) == 2


@pytest.mark.parametrize("name, version", [("worse", 1), ("better", 2)])
def test_what_was_registered_last_is_the_challenger(models: dict[str, Model], name: str, version: int):
    register(models[name])
    challenger = find_alias("challenger")
    assert challenger and challenger.version == version


def test_a_version_carries_its_notice_and_tags_and_is_found_by_its_content(models: dict[str, Model]):
    version = find_version(sha256_file(models["better"].path))
    assert version and (version.version, version.description) == (2, NOTICE)
    assert version.tags.items() >= {"recipe": "default", "synthetic": "True"}.items()
    assert find_version("0" * 64) is None


def test_registering_does_not_change_the_tags_it_was_given(models: dict[str, Model]):
    with mlflow.start_run(experiment_id=connect()) as run:
        pass
    register_model(run, models["better"].path, 32, tags := {"recipe": "default"}, "")
    assert tags == {"recipe": "default"}


def test_the_run_that_made_a_model_stays_finished(models: dict[str, Model]):
    version = find_version(sha256_file(models["better"].path))
    assert version and version.run_id
    assert mlflow.get_run(version.run_id).info.status == "FINISHED"


def test_a_version_has_a_signature_and_an_input_example():
    connect()
    info = mlflow.models.get_model_info(BETTER)
    assert info.signature
    assert [(spec.shape, str(spec.type)) for spec in info.signature.inputs.inputs] == [((-1, 32, 32), "uint8")]
    assert [(spec.shape, str(spec.type)) for spec in info.signature.outputs.inputs] == [((-1,), "float64")]
    assert info.saved_input_example_info


def test_a_version_loads_without_pickle_and_says_what_the_pipeline_says(
    models: dict[str, Model], films: Films, monkeypatch: pytest.MonkeyPatch
):
    connect()
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    images = read_split(films.records, films.raw, 32).images
    expected = predict_probabilities(load_model(models["better"].path), images)
    np.testing.assert_allclose(mlflow.pyfunc.load_model(BETTER).predict(images), expected, atol=1e-6)


def test_a_version_holds_no_pickle():
    connect()
    names = [path.name for path in Path(mlflow.artifacts.download_artifacts(BETTER)).rglob("*")]
    assert "better.keras" in names
    assert not [name for name in names if name.endswith((".pkl", ".pickle"))]


def test_a_version_refuses_films_of_another_size():
    connect()
    with pytest.raises(MlflowException, match="shape"):
        mlflow.pyfunc.load_model(BETTER).predict(np.zeros((1, 48, 48), np.uint8))


@pytest.mark.parametrize("metric", ["roc_auc", "sensitivity", "specificity"])
def test_each_floor_refuses_by_its_name(metric: str):
    gates = REPOSITORY.register_.model_copy(update=NO_FLOORS | {f"min_{metric}": 0.8})
    measured = {"roc_auc": 0.9, "sensitivity": 0.9, "specificity": 0.9}
    assert failed(check_challenger(measured | {metric: 0.8}, None, gates)) == []
    assert failed(check_challenger(measured | {metric: 0.79}, None, gates)) == [f"{metric} floor"]


def test_the_first_model_above_the_floors_becomes_champion(models: dict[str, Model], films: Films):
    outcome, checks = offer(models["better"], films)
    assert (outcome, failed(checks), find_champion()) == ("version 2 is the new champion", [], 2)


def test_a_model_below_a_floor_stays_challenger_even_without_a_champion(models: dict[str, Model], films: Films):
    outcome, checks = offer(models["better"], films, make_params(min_roc_auc=1.0))
    assert (outcome, failed(checks)) == ("version 2 stays challenger", ["roc_auc floor"])
    assert find_champion() is None


def test_a_better_challenger_takes_the_place_of_the_champion(models: dict[str, Model], films: Films):
    offer(models["worse"], films)
    outcome, checks = offer(models["better"], films)
    assert (outcome, failed(checks), find_champion()) == ("version 2 is the new champion", [], 2)


def test_a_worse_challenger_does_not(models: dict[str, Model], films: Films):
    offer(models["better"], films)
    outcome, checks = offer(models["worse"], films)
    assert outcome == "version 1 stays challenger, champion is version 2"
    assert failed(checks) == ["roc_auc of champion, less margin"]
    assert find_champion() == 2


def test_a_champion_is_measured_anew_and_not_believed(models: dict[str, Model], films: Films):
    connect()
    mlflow.MlflowClient().set_model_version_tag(MODEL_NAME, "1", "test_roc_auc", "1.0")
    offer(models["worse"]._replace(metrics=models["worse"].metrics | {"roc_auc": 1.0}), films)
    _, checks = offer(models["better"], films)
    assert checks[-1].bound == pytest.approx(models["worse"].metrics["roc_auc"], abs=1e-6)
    assert find_champion() == 2


def find_better() -> ModelVersion:
    connect()
    return mlflow.MlflowClient().get_model_version(MODEL_NAME, "2")


@pytest.mark.parametrize("stored, threshold", [(None, 0.5), (1e-9, 1e-9), (1.0, 1.0)])
def test_a_version_is_measured_at_its_own_threshold(
    models: dict[str, Model], films: Films, stored: float | None, threshold: float
):
    version = find_better()
    if stored is not None:
        mlflow.MlflowClient().set_model_version_tag(MODEL_NAME, version.version, "test_threshold", str(stored))
    test = read_split(films.records, films.raw, 32)
    said = predict_probabilities(load_model(models["better"].path), test.images)
    measured = measure_version(find_better(), films.records, films.raw, make_params())
    assert measured == pytest.approx(compute_metrics(test.labels, said, threshold), abs=1e-5)


def test_a_version_is_measured_on_mirror_images_too_where_its_evaluation_was(models: dict[str, Model], films: Films):
    version = find_better()
    once = measure_version(version, films.records, films.raw, make_params())
    mlflow.MlflowClient().set_model_version_tag(MODEL_NAME, version.version, "flip", "True")
    twice = measure_version(find_better(), films.records, films.raw, make_params())
    test = read_split(films.records, films.raw, 32)
    said = predict_probabilities(load_model(models["better"].path), test.images, flip=True)
    assert twice["loss"] == pytest.approx(compute_metrics(test.labels, said, 0.5)["loss"], abs=1e-5)
    assert once["loss"] != twice["loss"]


def test_a_challenger_may_fall_short_of_the_champion_by_the_margin(models: dict[str, Model], films: Films):
    offer(models["better"], films)
    short = models["better"].metrics["roc_auc"] - models["worse"].metrics["roc_auc"]
    assert "stays challenger" in offer(models["worse"], films, make_params(margin=0.9 * short))[0]
    assert "new champion" in offer(models["worse"], films, make_params(margin=1.1 * short))[0]


def test_a_model_of_synthetic_films_never_replaces_one_of_real_films(models: dict[str, Model], films: Films):
    offer(models["worse"], films, make_params("kaggle"))
    _, checks = offer(models["better"], films, make_params("phantom"))
    assert failed(checks) == ["trained on real films, as the champion is"]
    assert find_champion() == 1


def test_a_model_of_real_films_may_replace_one_of_synthetic_films(models: dict[str, Model], films: Films):
    offer(models["worse"], films, make_params("phantom"))
    offer(models["better"], films, make_params("kaggle"))
    assert find_champion() == 2


def test_a_decision_on_the_same_evidence_is_not_taken_again(models: dict[str, Model], films: Films):
    offer(models["better"], films)
    _, checks = offer(models["worse"], films)
    again = offer(models["worse"], films)
    assert again == ("everything is up to date, version 1 stays challenger", checks)


@pytest.mark.parametrize("evidence", ["films", "gates"])
def test_other_evidence_is_decided_anew(models: dict[str, Model], films: Films, evidence: str):
    offer(models["better"], films)
    offer(models["worse"], films)
    fewer, params = films._replace(records=films.records[::2]), make_params(min_roc_auc=0.01)
    outcome, _ = offer(models["worse"], fewer) if evidence == "films" else offer(models["worse"], films, params)
    assert outcome == "version 1 stays challenger, champion is version 2"


def test_the_champion_stays_what_it_is_when_it_is_offered_again(models: dict[str, Model], films: Films):
    _, checks = offer(models["better"], films)
    assert offer(models["better"], films) == ("everything is up to date, version 2 is the champion", checks)


def test_a_store_that_cannot_be_reached_is_no_registry_without_a_champion(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(MlflowException, match="Connection refused"):
        find_alias("champion")


def test_both_aliases_are_described_in_a_line_each(models: dict[str, Model], films: Films):
    offer(models["better"], films)
    register(models["worse"])
    better, worse = (models[name].metrics["roc_auc"] for name in ("better", "worse"))
    assert describe_versions() == [
        f"champion: version 2, test ROC AUC {better}, recipe default",
        f"challenger: version 1, test ROC AUC {worse}, recipe default",
    ]
