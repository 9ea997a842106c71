"""Training on cached activations is training; an interrupted run resumes and ends in the same bits."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score, log_loss

from benchmarks.plain import wrap
from pneumonia.core.dataset import Dataset, Split
from pneumonia.core.params import CacheParams, ComputeParams, FinetuneParams, ModelParams
from pneumonia.models.activations import ActivationCache
from pneumonia.models.classifier import build_model
from pneumonia.models.cut import freeze_below
from pneumonia.training.batches import Batches, draw_epoch
from pneumonia.training.fit import fit, make_deterministic
from pneumonia.training.history import describe_best, find_best
from pneumonia.training.phase import prepare
from pneumonia.training.range_test import choose_learning_rate

PARAMS = FinetuneParams(
    epochs=3, batch_size=8, learning_rate=1e-2, schedule="constant", cycle_epochs=2.0, base_share=0.25,
    monitor="val_loss", patience=None, label_smoothing=0.0, ema_momentum=None, seed=1,
    from_layer="not read here", batch_norm="frozen",
)  # fmt: skip
CACHE = ActivationCache(ComputeParams(precision="float32", batch_size=16, threads="auto"), CacheParams(max_gb=1))
HEAD, FINETUNE, EVERYTHING = None, 7, 0  # first trainable layer of the backbone: none, conv3, all
VIEWS, ONE_CYCLE = 3, "one_cycle"
AVERAGED: dict[str, Any] = {"batch_norm": "train", "ema_momentum": 0.8}
OnEpoch = Callable[[int, dict[str, float], pd.DataFrame], None]


def make_split(number: int, seed: int) -> Split:
    """Draw noise, a little brighter where the label is 1."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(number) % 2).astype(np.uint8)
    images = rng.integers(0, 200, (number, 32, 32)) + 12 * labels[:, None, None]
    return Split(images.astype(np.uint8), labels, labels.astype(str), np.zeros(number, bool))


DATASET = Dataset(make_split(24, 1), make_split(16, 2), make_split(4, 3), {0: 1.0, 1: 1.0})
# The better a model fits the training images, the worse it does on these.
INVERTED = replace(DATASET, val=replace(DATASET.val, labels=1 - DATASET.val.labels))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def build(dropout: float = 0.0) -> keras.Model:
    """Build the same model again, as a stage does when it starts."""
    make_deterministic(1)
    return build_model(ModelParams(backbone="tiny", weights="none", head="sigmoid", image_size=32, dropout=dropout))


class Run(NamedTuple):
    """What a training leaves behind."""

    history: pd.DataFrame
    model: keras.Model
    state: Path
    rates: list[pd.DataFrame]  # of each epoch


def train(
    state: str = "state", from_layer: int | None = HEAD, dataset: Dataset = DATASET,
    on_epoch: OnEpoch = lambda epoch, logs, rates: None, **changes: Any,
) -> Run:  # fmt: skip
    model, params, told = build(0.5), PARAMS.model_copy(update=changes), list[pd.DataFrame]()

    def tell(epoch: int, logs: dict[str, float], rates: pd.DataFrame) -> None:
        told.append(rates)
        on_epoch(epoch, logs, rates)

    trainable, images, val = prepare(model, from_layer, dataset, params, CACHE)
    learning_rate, _ = choose_learning_rate(trainable, images, params, dataset.class_weight)
    folder = Path(state).absolute()
    history = fit(trainable, images, val, params, learning_rate, dataset.class_weight, folder, tell)
    return Run(history, model, folder, told)


def with_views(views: int) -> Dataset:
    """Follow each training image by darker variants of it, each of another grey."""
    images = DATASET.train.images // np.arange(1, views + 1, dtype=np.uint8)[:, None, None, None]
    return replace(DATASET, train=replace(DATASET.train, images=images.swapaxes(0, 1).reshape(-1, 32, 32)))


# Each of these takes seconds, so tests share them.


@cache
def unbroken(from_layer: int | None) -> Run:
    """Train without interruption; fine-tune with variants and one cycle."""
    return train("unbroken", from_layer, **settings(from_layer))


def settings(from_layer: int | None) -> dict[str, Any]:
    return {"dataset": with_views(VIEWS), "schedule": ONE_CYCLE} if from_layer == FINETUNE else {}


@cache
def resumed() -> tuple[list[Run], list[int]]:
    """Train one epoch, then up to three, then again when nothing is left to do; also list the epochs told."""
    told: list[int] = []

    def tell(epoch: int, logs: dict[str, float], rates: pd.DataFrame) -> None:
        assert json.loads(Path("resumed/history.json").read_text())[epoch] == logs
        told.append(epoch)

    runs = [train("resumed", on_epoch=tell, epochs=1), train("resumed", on_epoch=tell)]
    files = list_files(runs[1].state)
    runs.append(train("resumed", on_epoch=tell))
    assert list_files(runs[1].state) == files, "a finished training was written again"
    return runs, told


def list_files(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


@cache
def overfitted(monitor: str = "val_loss") -> Run:
    """Train past the best epoch until patience ends it."""
    return train("overfitted", dataset=INVERTED, epochs=30, learning_rate=0.1, monitor=monitor, patience=2)


@cache
def averaged() -> Run:
    """Fine-tune with statistics that move and weights that are averaged."""
    return train("averaged", FINETUNE, **AVERAGED)


def find_logits(model: keras.Model, images: np.ndarray) -> np.ndarray:
    return np.asarray(model(images[..., None], training=False))[:, 0].astype(np.float64)


def find_loss(model: keras.Model, split: Split) -> float:
    return float(log_loss(split.labels, 1 / (1 + np.exp(-find_logits(model, split.images)))))


def read_weights(model: keras.Model) -> dict[str, np.ndarray]:
    return {v.path: np.asarray(v) for v in model.variables if "seed_generator" not in v.path}


def assert_same(one: Run, other: Run) -> None:
    """Compare histories and weights bit by bit."""
    pd.testing.assert_frame_equal(one.history, other.history, check_exact=True)
    weights, others = read_weights(one.model), read_weights(other.model)
    assert weights.keys() == others.keys()
    assert [path for path in weights if weights[path].tobytes() != others[path].tobytes()] == []


class Interrupted(Exception):  # noqa: N818
    """Stands for SIGKILL."""


def interrupt_after(last: int) -> OnEpoch:
    def interrupt(epoch: int, logs: dict[str, float], rates: pd.DataFrame) -> None:
        if epoch == last:
            raise Interrupted

    return interrupt


@pytest.mark.parametrize("from_layer", [HEAD, FINETUNE])
def test_training_on_cached_activations_equals_training_the_whole_model_on_images(from_layer: int | None):
    chosen = settings(from_layer)
    plain, dataset = build(0.5), chosen.pop("dataset", DATASET)
    freeze_below(plain, from_layer)
    images, val = (Batches(split.images, split.labels, 8) for split in (dataset.train, dataset.val))
    params = PARAMS.model_copy(update=chosen)
    history = fit(wrap(plain), images, val, params, 1e-2, DATASET.class_weight, Path("plain"))
    cached = unbroken(from_layer)
    pd.testing.assert_frame_equal(cached.history, history, rtol=1e-3, atol=1e-4)
    for path, weight in read_weights(plain).items():
        np.testing.assert_allclose(read_weights(cached.model)[path], weight, rtol=1e-3, atol=1e-4, err_msg=path)


@pytest.mark.parametrize(
    "from_layer, trained",
    [
        (HEAD, {"logit"}),
        (FINETUNE, {"conv3", "bn3", "logit"}),
        (EVERYTHING, {"conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "logit"}),
    ],
)
def test_trainable_weights_move_while_frozen_ones_and_batchnorm_statistics_stay(
    from_layer: int | None, trained: set[str]
):
    before, after = read_weights(build(0.5)), read_weights(unbroken(from_layer).model)
    moved = {path for path, weight in after.items() if not np.array_equal(weight, before[path])}
    assert moved == {path for path in after if path.split("/")[0] in trained and "/moving_" not in path}


def test_statistics_of_trainable_batchnorm_move_when_told_to_and_those_below_stay():
    before, after = read_weights(build(0.5)), read_weights(averaged().model)
    moved = {path for path, weight in after.items() if not np.array_equal(weight, before[path])}
    assert moved == {path for path in after if path.split("/")[0] in {"conv3", "bn3", "logit"}}


def test_the_model_that_is_kept_computes_with_the_statistics_and_weights_that_validation_saw():
    run = averaged()
    assert find_loss(run.model, DATASET.val) == pytest.approx(run.history["val_loss"].min(), rel=1e-3)


def test_an_interrupted_average_of_weights_resumes_to_the_same_bits():
    with pytest.raises(Interrupted):
        train("broken", FINETUNE, on_epoch=interrupt_after(0), **AVERAGED)
    assert_same(train("broken", FINETUNE, **AVERAGED), averaged())


def test_averaged_weights_are_an_exponential_mean_of_those_after_each_step():
    kernels: list[np.ndarray] = []
    every = len(DATASET.train.labels)  # one step in an epoch

    def keep(epoch: int, *_: object) -> None:
        kernels.append(np.load(f"steps/epoch{epoch:04d}.npz")["arr_0"])

    train("steps", on_epoch=keep, batch_size=every)
    run = train("mean", ema_momentum=0.8, batch_size=every)
    mean, *later = kernels[: int(run.history["val_loss"].argmin()) + 1]
    for kernel in later:
        mean = 0.8 * mean + 0.2 * kernel
    assert later, "the first epoch was best: this proves nothing"
    np.testing.assert_allclose(read_weights(run.model)["logit/kernel"], mean, rtol=1e-4)


def test_smoothed_labels_are_those_of_the_loss():
    run = train("smoothed", label_smoothing=0.2)
    logits, labels = find_logits(run.model, DATASET.val.images), DATASET.val.labels * 0.8 + 0.1
    expected = (np.logaddexp(0, -logits) * labels + np.logaddexp(0, logits) * (1 - labels)).mean()
    assert run.history["val_loss"].min() == pytest.approx(expected, rel=1e-3)


def test_training_with_nothing_frozen_lowers_the_loss():
    history = unbroken(EVERYTHING).history
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]


def test_every_epoch_takes_each_image_once_in_the_order_drawn_for_it():
    epochs: list[list[int]] = [[]]

    class Recorded(Batches):
        def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
            epochs[-1] += self.rows[index * self.batch_size : (index + 1) * self.batch_size].tolist()
            return super().__getitem__(index)

    layers = keras.layers
    model = keras.Sequential([layers.Input((32, 32, 1)), layers.GlobalAveragePooling2D(), layers.Dense(1)])
    images = Recorded(DATASET.train.images[:20], DATASET.train.labels[:20], 8)
    val = Batches(DATASET.val.images, DATASET.val.labels, 8)
    fit(model, images, val, PARAMS, 1e-2, {0: 1.0, 1: 1.0}, Path("state"), lambda *_: epochs.append([]))
    taken = [epoch[-20:] for epoch in epochs[:3]]  # Keras looks at a batch or two before the first epoch begins
    assert taken == [draw_epoch(model, 20, 1, PARAMS.seed, epoch).tolist() for epoch in range(3)]
    assert all(sorted(epoch) == list(range(20)) for epoch in taken)
    assert len({tuple(epoch) for epoch in taken}) == 3


def draw(seed: int, epoch: int = 0, views: int = 1) -> list[Any]:
    """Return the order of images and the state of the seed generators that an epoch starts with."""
    model = build(0.5)
    order = draw_epoch(model, 20, views, seed, epoch) // views
    return [order.tolist(), [np.asarray(v).tolist() for v in model.variables if "seed_generator" in v.path]]


def test_order_and_dropout_of_an_epoch_follow_from_seed_and_epoch_alone():
    first = draw(1)
    assert draw(1) == first
    for other in (draw(2), draw(1, epoch=1)):
        assert other[0] != first[0] and other[1] != first[1]


def test_variants_change_nothing_else_that_is_drawn():
    assert draw(1, 2, views=1) == draw(1, 2, views=3)


def test_every_epoch_draws_one_variant_of_each_image():
    model = build(0.5)
    epochs = [draw_epoch(model, images=20, views=3, seed=1, epoch=epoch) for epoch in range(8)]
    assert all(sorted(rows // 3) == list(range(20)) for rows in epochs)
    assert all(set(rows % 3) == {0, 1, 2} for rows in epochs)
    variants = np.array([rows[np.argsort(rows)] % 3 for rows in epochs])
    assert (variants.min(axis=0) < variants.max(axis=0)).all()


def test_a_variant_is_trained_on_with_the_label_of_its_image():
    images = with_views(3).train
    batches = Batches(images.images, images.labels, 8)
    assert np.array_equal(batches[0][0][..., 0], DATASET.train.images[:8])  # unaltered before the first epoch
    batches.rows = draw_epoch(build(), 24, 3, seed=1, epoch=0)
    for index in range(len(batches)):
        x, y = batches[index]
        rows = batches.rows[8 * index : 8 * index + 8]
        assert np.array_equal(x[..., 0], images.images[rows])
        assert np.array_equal(y[:, 0], images.labels[rows // 3])


def test_a_learning_rate_found_automatically_trains_as_the_same_number_does():
    trainable, images, _ = prepare(build(0.5), HEAD, DATASET, PARAMS, CACHE)
    auto = PARAMS.model_copy(update={"learning_rate": "auto"})
    found, _ = choose_learning_rate(trainable, images, auto, {0: 1.0, 1: 1.0})
    assert_same(train("automatic", learning_rate="auto", epochs=1), train("number", learning_rate=found, epochs=1))


def test_each_step_tells_its_learning_rate_and_momentum_and_history_keeps_the_last_of_an_epoch():
    run = unbroken(FINETUNE)
    rates = pd.concat(run.rates)
    assert rates.index.to_list() == list(range(1, 10))
    assert run.history["learning_rate"].to_list() == rates["learning_rate"].loc[[3, 6, 9]].to_list()
    assert rates["momentum"].between(0.85, 0.95).all()


@pytest.mark.parametrize("from_layer, last", [(EVERYTHING, 1), (FINETUNE, 0)])
def test_an_interrupted_training_resumes_to_the_same_bits_whatever_half_written_files_it_left(
    from_layer: int | None, last: int
):
    with pytest.raises(Interrupted):
        train("broken", from_layer, on_epoch=interrupt_after(last), **settings(from_layer))
    assert len(json.loads(Path("broken/history.json").read_text())) == last + 1
    Path(f"broken/epoch{last + 1:04d}.npz").write_bytes(b"half a fi")
    Path(f"broken/.partial-1-epoch{last + 1:04d}.npz").write_bytes(b"half")
    assert_same(train("broken", from_layer, **settings(from_layer)), unbroken(from_layer))


def test_a_state_that_a_killed_process_had_begun_to_remove_starts_anew():
    train("removed", epochs=1)
    max(Path("removed").glob("epoch*.npz")).unlink()
    assert_same(train("removed"), unbroken(HEAD))


def test_more_epochs_continue_a_shorter_training():
    (first, longer, _), _ = resumed()
    assert len(first.history) == 1
    assert_same(longer, unbroken(HEAD))


def test_a_finished_training_is_only_read_again():
    (_, longer, again), _ = resumed()
    assert_same(again, longer)


def test_every_epoch_is_told_as_it_ends_and_the_last_one_again_on_resuming():
    assert resumed()[1] == [0, 0, 1, 2, 2]


def test_only_the_weights_of_the_last_and_the_best_epoch_are_kept():
    run = overfitted()
    epochs = (len(run.history) - 1, int(run.history["val_loss"].argmin()))
    assert list_files(run.state).keys() == {f"epoch{epoch:04d}.npz" for epoch in epochs} | {"history.json"}


@pytest.mark.parametrize("monitor, best", [("val_loss", "argmin"), ("val_auc", "argmax")])
def test_the_model_ends_with_the_weights_of_the_best_epoch(monitor: str, best: str):
    run = overfitted(monitor)
    row = run.history.iloc[getattr(run.history[monitor], best)()]
    assert row["epoch"] < len(run.history), "the last epoch was best: this proves nothing"
    assert find_loss(run.model, INVERTED.val) == pytest.approx(row["val_loss"], rel=1e-3)


@pytest.mark.parametrize("monitor, best", [("val_loss", 2), ("val_auc", 1), ("val_f1", 1), ("val_accuracy", 1)])
def test_the_best_epoch_has_the_lowest_loss_or_the_highest_of_another_metric(monitor: Any, best: int):
    assert find_best([0.5, 0.7, 0.4, 0.7, 0.6], monitor) == best
    assert find_best([float("nan"), 0.5, float("nan")], monitor) == 1


def test_an_epoch_that_diverged_is_never_the_best():
    expected = unbroken(HEAD)
    shutil.copytree(expected.state, "state")
    history = json.loads(Path("state/history.json").read_text())
    Path("state/history.json").write_text(json.dumps([*history, history[0] | {"val_loss": float("nan")}]))
    shutil.copy("state/epoch0002.npz", "state/epoch0003.npz")
    model = train(epochs=4).model
    assert read_weights(model)["logit/kernel"].tobytes() == read_weights(expected.model)["logit/kernel"].tobytes()


def test_training_stops_after_patience_epochs_without_a_better_one():
    history = overfitted().history
    assert len(history) < 30
    assert len(history) == int(history["val_loss"].argmin()) + 1 + 2


def test_class_weights_multiply_the_loss_of_training_and_not_of_validation():
    model = build()
    images, val = (Batches(split.images, split.labels, 8) for split in (DATASET.train, DATASET.val))
    params = PARAMS.model_copy(update={"epochs": 1})
    history = fit(wrap(model), images, val, params, 1e-9, {0: 2.0, 1: 2.0}, Path("state"))
    assert history["loss"][0] == pytest.approx(2 * find_loss(model, DATASET.train), rel=1e-4)
    assert history["val_loss"][0] == pytest.approx(find_loss(model, DATASET.val), rel=1e-4)


def test_f1_and_accuracy_are_measured_at_probability_one_half():
    history, model, *_ = unbroken(EVERYTHING)
    best = history.iloc[int(history["val_loss"].argmin())]
    calls, labels = find_logits(model, DATASET.val.images) >= 0, DATASET.val.labels == 1
    assert best["val_accuracy"] == pytest.approx(accuracy_score(labels, calls))
    assert best["val_f1"] == pytest.approx(f1_score(labels, calls))


def test_the_best_epoch_is_described_by_its_row():
    history = unbroken(EVERYTHING).history
    assert describe_best(history, "val_loss") == history.iloc[int(history["val_loss"].argmin())].to_dict()
