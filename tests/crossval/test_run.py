"""Cross-validation as a command: predictions out of fold, computed once, resumed to the same bytes, told to MLflow."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import mlflow
import numpy as np
import pandas as pd
import pytest
from crossvals import make_project, read_outputs, read_predictions, run_crossval
from imports import PACKAGE, follow_imports
from stores import working_in

from pneumonia.cli.main import main
from pneumonia.core.dataset import Dataset
from pneumonia.core.errors import InputError
from pneumonia.core.names import SPLITS
from pneumonia.core.tables import read_records
from pneumonia.crossval import cross_validate, trainer
from pneumonia.crossval.folds import deal_folds
from pneumonia.crossval.pool import build_pool
from pneumonia.crossval.recipes import compose_recipes
from pneumonia.crossval.trainer import CODE, Trainer
from pneumonia.inference.scores import score_images
from pneumonia.models.activations import ActivationCache
from pneumonia.models.classifier import build_model
from pneumonia.models.cut import find_layer, get_backbone
from pneumonia.tracking.connection import connect
from pneumonia.training.fit import make_deterministic
from pneumonia.training.phase import run_phase

TWO = ("evaluate.threshold=0.5,f1",)  # two recipes that share what they train
NAMES = ["default evaluate.threshold=0.5", "default evaluate.threshold=f1"]
OTHER = ("train.learning_rate=2e-2",)
RAW, STATE = Path("data/raw"), Path(".cache/crossval")


@pytest.fixture(scope="module", autouse=True)
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Work in a project in which two recipes were cross-validated, 2 folds x 2 seeds; the test images are gone.

    Yields how often a fold was trained.
    """
    folder = make_project(tmp_path_factory.mktemp("crossval"))
    with working_in(folder):
        records = read_records(Path("data/splits.csv"))
        for path in records.loc[records["split"] == "test", "path"]:
            (RAW / path).unlink()
        run_crossval(settings=TWO)
        yield len(read_results())


def read_development() -> pd.DataFrame:
    records = read_records(Path("data/splits.csv"))
    return records[records["split"] != "test"].reset_index(drop=True)


def read_cache() -> list[int]:
    """Return the number of rows of each frozen part."""
    return [path.stat().st_size // 36 for path in Path(".cache/activations").glob("*/index")]


def read_results() -> dict[str, Any]:
    """Return all results by recipe's folder and file."""
    return {str(path): json.loads(path.read_text()) for path in sorted(STATE.glob("*/*.json"))}


def test_every_development_image_is_predicted_once_for_each_seed_and_recipe() -> None:
    found = read_predictions()
    records = read_development()
    assert found["recipe"].unique().tolist() == NAMES
    for (_, seed), part in found.groupby(["recipe", "seed"]):
        assert seed in (123, 124)
        assert part["image"].tolist() == records["path"].tolist()
        assert part["patient"].tolist() == records["patient_id"].tolist()
        assert part["label"].tolist() == records["label"].eq("PNEUMONIA").astype(int).tolist()
    np.testing.assert_allclose(found["probability"], 1 / (1 + np.exp(-found["log_odds"])))


def test_folds_are_the_same_for_every_seed_and_recipe_and_keep_patients_together() -> None:
    found = read_predictions()
    assert found.groupby("image")["fold"].nunique().eq(1).all()
    assert found.groupby("patient")["fold"].nunique().eq(1).all()
    assert found["fold"].nunique() == 2


def test_images_of_the_test_split_are_read_only_with_all() -> None:
    with pytest.raises(FileNotFoundError):
        run_crossval(test=True, out="reports/all")
    assert not Path("reports/all").exists()


def test_the_frozen_part_runs_once_for_each_image_and_variant_in_all() -> None:
    (params, _) = compose_recipes(["default"], list(TWO)).values()
    folds = deal_folds(read_development(), 2, params.split, each_image=False)
    images = len(np.unique(build_pool(folds, RAW, 32, params.augment).split.images, axis=0))
    assert read_cache() == [images, images]  # at the default cut, and of the pooled features above it


def test_the_same_command_again_trains_nothing_and_writes_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "run", lambda *arguments: pytest.fail("something was trained"))
    runs = len(list_runs())
    run_crossval(settings=TWO, out="reports/again")
    assert read_outputs("reports/again") == read_outputs()
    assert len(list_runs()) == runs


def test_a_run_that_was_interrupted_within_a_fold_resumes_to_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.move(STATE, "finished")
    epochs: list[int] = []

    def interrupt(listener: Any, epoch: int, logs: Any, rates: Any) -> None:
        epochs.append(epoch)
        if len(epochs) == 7:  # the first epoch of fine-tuning in the second fold
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trainer._Silence, "log_epoch", interrupt)
        run_crossval(settings=TWO, out="reports/resumed")
    assert len(read_results()) == 1
    assert list(STATE.glob("*/*/finetune/epoch*.npz"))
    assert not Path("reports/resumed").exists()
    run_crossval(settings=TWO, out="reports/resumed")
    assert read_outputs("reports/resumed") == read_outputs()
    assert list(STATE.glob("*/*/")) == []  # weights of single epochs


def take_out(dataset: Dataset) -> Dataset:
    """Return a fold's data set with pixels of its own, as a stage reads it."""
    splits = {name: getattr(dataset, name) for name in SPLITS}
    return replace(dataset, **{name: replace(split, images=split.images[:]) for name, split in splits.items()})


def test_a_fold_after_others_is_what_the_stages_train_on_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = compose_recipes(["default"], list(TWO))[NAMES[0]]
    folds = deal_folds(read_development(), 2, params.split, each_image=False)
    images = take_out(build_pool(folds, RAW, 32, params.augment).pick(folds[1]))
    result = next(result for path, result in read_results().items() if path.endswith("seed124-fold2.json"))
    monkeypatch.chdir(tmp_path)  # nothing is cached here
    make_deterministic(124)
    model = build_model(params.model)
    make_deterministic(
        123
    )  # random weights of the backbone are those of the first seed; ImageNet's are always the same
    get_backbone(model).set_weights(get_backbone(build_model(params.model)).get_weights())
    cache = ActivationCache(params.compute, params.cache)
    for layer, section in ((None, params.train), (find_layer(get_backbone(model), "auto"), params.finetune)):
        section = section.model_copy(update={"seed": 124})
        run_phase(model, layer, images, section, cache, tmp_path / type(section).__name__, trainer._Silence())
    log_odds = score_images(model, images.test.images, cache, params.evaluate.flip)
    assert log_odds.tolist() == result["test"]["log_odds"]


def test_head_only_stops_after_the_first_phase_and_has_results_of_its_own() -> None:
    before, rows = set(read_results()), read_cache()
    run_crossval(head_only=True, seeds=1, out="reports/head")
    fresh = [result for path, result in read_results().items() if path not in before]
    assert read_cache() == rows
    assert [{epoch["phase"] for epoch in result["epochs"]} for result in fresh] == [{"train"}] * 2
    assert "head only" in Path("reports/head/index.html").read_text()


def test_another_threshold_is_chosen_in_each_fold_and_trains_nothing(trained: int) -> None:
    assert trained == 4
    thresholds = read_predictions().groupby(["recipe", "seed", "fold"])["threshold"].unique()
    assert all(thresholds[NAMES[0]].map(list) == [[0.5]] * 4)
    assert all(len(found) == 1 and found[0] != 0.5 for found in thresholds[NAMES[1]])


def test_a_fold_that_diverges_is_counted_and_the_others_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, rows = list[int](), read_cache()

    def poison(classifier: keras.Model, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:  # the first phase of the second fold
            logit = classifier.get_layer("logit")
            logit.set_weights([weight * np.nan for weight in logit.get_weights()])
        return run_phase(classifier, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "run_phase", poison)
        run_crossval(settings=OTHER, seeds=1, out="reports/diverged")
    assert read_cache() == rows  # another recipe with the same frozen part computes nothing again
    folds = pd.read_csv("reports/diverged/folds.csv")
    assert folds["diverged"].tolist() == [False, True]
    assert len(read_predictions("reports/diverged")) == folds["images"][0]
    assert "seed 123, fold 2 diverged" in Path("reports/diverged/index.html").read_text()
    failed = [run for run in list_runs() if run.info.status == "FAILED"]
    assert [run.info.run_name for run in failed] == ["fold 2, seed 123"]
    run_crossval(settings=OTHER, seeds=1, out="reports/diverged_again")  # nor is it repeated
    assert read_outputs("reports/diverged_again") == read_outputs("reports/diverged")


def list_runs() -> list[Any]:
    return mlflow.search_runs([connect()], output_format="list", order_by=["start_time"])  # pyright: ignore


def test_mlflow_holds_a_parent_for_each_recipe_with_a_child_for_each_fold_and_seed() -> None:
    metrics = pd.read_csv("reports/crossval/metrics.csv").set_index(["recipe", "metric"])
    folds = pd.read_csv("reports/crossval/folds.csv").set_index(["recipe", "seed", "fold"])
    runs = list_runs()
    for name in NAMES:
        (parent,) = [run for run in runs if run.info.run_name == f"{name} crossval"]
        assert parent.info.status == "FINISHED"
        assert parent.data.params["folds"] == "2"
        for metric, column in (("roc_auc", "mean"), ("roc_auc_low", "low"), ("roc_auc_spread", "spread")):
            assert parent.data.metrics[metric] == pytest.approx(metrics.loc[(name, "roc_auc"), column], abs=1e-6)
        children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
        about = {(int(child.data.params["seed"]), int(child.data.params["fold"])) for child in children}
        assert about == {(seed, fold) for seed in (123, 124) for fold in (1, 2)}
        for child in children:
            key = (name, int(child.data.params["seed"]), int(child.data.params["fold"]))
            assert child.data.metrics["roc_auc"] == pytest.approx(folds.loc[key, "roc_auc"], abs=1e-6)
            assert child.data.params["evaluate.threshold"] == parent.data.params["evaluate.threshold"]
            history = mlflow.MlflowClient().get_metric_history(child.info.run_id, "val_loss")
            assert [point.step for point in history] == [1, 2, 3, 4]


def test_a_store_that_is_away_stops_nothing_and_the_same_command_records_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, runs = ("evaluate.sensitivity_floor=0.9",), len(list_runs())
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        mlflow.set_tracking_uri("http://127.0.0.1:9")
        run_crossval(settings=settings, out="reports/away")
    assert "cannot be reached" in capsys.readouterr().out
    run_crossval(settings=settings, out="reports/away")
    assert len(list_runs()) == runs + 5


def test_missing_weights_are_told_before_anything_runs() -> None:
    before = set(read_results())
    with pytest.raises(InputError, match=r"model\.weights=missing\.weights\.h5 does not fit tiny"):
        run_crossval(settings=("train.epochs=1", "model.weights=none,missing.weights.h5"))
    assert set(read_results()) == before


@pytest.mark.parametrize("wanted, what", [({"folds": 30}, "30 folds cannot be dealt"), ({"seeds": 0}, "0 seeds")])
def test_numbers_that_cannot_be_are_refused(wanted: dict[str, int], what: str) -> None:
    with pytest.raises(InputError, match=what):
        run_crossval(**wanted)  # pyright: ignore[reportArgumentType]


def test_a_project_that_was_not_split_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("conf", "params.yaml"):
        (tmp_path / name).symlink_to(Path(name).resolve())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"data/splits\.csv does not exist\.\n.*\n  Remedy: dvc repro split"):
        main(["crossval"])


def test_a_full_disk_is_told_in_three_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "predictions.csv")

    monkeypatch.setattr(cross_validate, "write_crossval", fill)
    with pytest.raises(SystemExit, match=r"predictions\.csv could not be written(.|\n)*run the same command again"):
        main(["crossval", "--folds", "2", "--seeds", "1"])


def test_a_result_depends_on_all_code_that_makes_it_and_on_no_other() -> None:
    places = [PACKAGE / place for place in CODE]
    used = {path for name in ("pool", "trainer") for path in follow_imports(PACKAGE / "crossval" / f"{name}.py")}
    own = {PACKAGE / "__init__.py", *(PACKAGE / "crossval").glob("__init__.py")}
    assert {path for path in used - own if not any(path.is_relative_to(place) for place in places)} == set()
    assert [place for place in places if not any(path.is_relative_to(place) for path in used)] == []
