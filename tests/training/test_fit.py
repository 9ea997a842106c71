"""Training on cached activations is training; stopped and resumed, it ends in the same bits."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score, log_loss

from benchmarks.plain import wrap
from pneumonia.core.dataset import Dataset, Split
from pneumonia.core.params import CacheParams, ComputeParams, FitParams, ModelParams
from pneumonia.inference.operating_point import calibrate
from pneumonia.inference.scores import predict_log_odds
from pneumonia.models.activations import ActivationCache
from pneumonia.models.classifier import build_model
from pneumonia.models.cut import freeze_below
from pneumonia.training.batches import Batches, draw_epoch
from pneumonia.training.fit import describe_best, fit, make_deterministic
from pneumonia.training.phase import find_state, prepare
from pneumonia.training.range_test import choose_learning_rate

PARAMS = FitParams(
    epochs=3, batch_size=8, learning_rate=1e-2, schedule="constant", cycle_epochs=2.0, base_share=0.25,
    monitor="val_loss", patience=None, seed=1,
)  # fmt: skip
CACHE = ActivationCache(ComputeParams(precision="float32", batch_size=4, threads="auto"), CacheParams(max_gb=1))
HEAD, FINETUNE, EVERYTHING = None, 7, 0  # first trainable layer: none of the backbone, conv3, all
OnEpoch = Callable[[int, dict[str, float], pd.DataFrame], None]


def make_split(number: int, seed: int) -> Split:
    """Draw noise, a little brighter where the label is 1."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(number) % 2).astype(np.uint8)
    images = rng.integers(0, 200, (number, 32, 32)) + 12 * labels[:, None, None]
    return Split(images.astype(np.uint8), labels, labels.astype(str), np.zeros(number, bool))


DATASET = Dataset(make_split(24, 1), make_split(16, 2), make_split(4, 3), {0: 1.0, 1: 1.0})
# The more is learnt from training images, the worse these validation images are called.
INVERTED = replace(DATASET, val=replace(DATASET.val, labels=1 - DATASET.val.labels))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def build(dropout: float = 0.0) -> keras.Model:
    """Build the same model again, as a stage does when it starts."""
    make_deterministic(1)
    return build_model(ModelParams(backbone="tiny", weights="none", head="sigmoid", image_size=32, dropout=dropout))


def train(
    state: str = "state", from_layer: int | None = HEAD, dropout: float = 0.0, dataset: Dataset = DATASET,
    on_epoch: OnEpoch = lambda epoch, logs, rates: None, **changes: Any,
) -> tuple[pd.DataFrame, keras.Model]:  # fmt: skip
    model, params = build(dropout), PARAMS.model_copy(update=changes)
    trainable, images, val = prepare(model, from_layer, dataset, params.batch_size, CACHE)
    learning_rate, _ = choose_learning_rate(trainable, images, params, dataset.class_weight)
    return fit(trainable, images, val, params, learning_rate, dataset.class_weight, Path(state), on_epoch), model


def with_views(views: int) -> Dataset:
    """Follow each training image by darker variants of it, each of another grey."""
    images = DATASET.train.images // np.arange(1, views + 1, dtype=np.uint8)[:, None, None, None]
    return replace(DATASET, train=replace(DATASET.train, images=images.swapaxes(0, 1).reshape(-1, 32, 32)))


@cache
def unbroken(from_layer: int | None, schedule: str = "constant", views: int = 1) -> tuple[pd.DataFrame, keras.Model]:
    """Train without being stopped, with dropout."""
    return train("unbroken", from_layer, dropout=0.5, dataset=with_views(views), schedule=schedule)


@cache
def spoilt(monitor: str) -> tuple[pd.DataFrame, keras.Model, set[str]]:
    """Train past the best epoch; also return the names of the files that are kept."""
    history, model = train("spoilt", dataset=INVERTED, epochs=5, learning_rate=0.1, monitor=monitor)
    return history, model, {path.name for path in Path("spoilt").iterdir()}


def read_weights(model: keras.Model) -> dict[str, np.ndarray]:
    return {v.path: np.asarray(v) for v in model.variables if "seed_generator" not in v.path}


def assert_same(one: tuple[pd.DataFrame, keras.Model], other: tuple[pd.DataFrame, keras.Model]) -> None:
    """Compare histories and weights bit by bit."""
    pd.testing.assert_frame_equal(one[0], other[0], check_exact=True)
    weights, others = read_weights(one[1]), read_weights(other[1])
    assert weights.keys() == others.keys()
    assert [path for path in weights if weights[path].tobytes() != others[path].tobytes()] == []


class Stop(Exception):  # noqa: N818
    """What a kill is to a test."""


def stop_after(last: int) -> OnEpoch:
    def stop(epoch: int, logs: dict[str, float], rates: pd.DataFrame) -> None:
        if epoch == last:
            raise Stop

    return stop


@pytest.mark.parametrize("from_layer", [HEAD, FINETUNE])
def test_cached_activations_train_as_the_whole_model_on_images_does(from_layer: int | None):
    cached, model = train(from_layer=from_layer)
    plain = build()
    freeze_below(plain, from_layer)
    images, val = (Batches(split.images, split.labels, 8) for split in (DATASET.train, DATASET.val))
    history = fit(wrap(plain), images, val, PARAMS, 1e-2, DATASET.class_weight, Path("plain"))
    pd.testing.assert_frame_equal(cached, history, rtol=1e-3, atol=1e-4)
    for path, weight in read_weights(plain).items():
        np.testing.assert_allclose(read_weights(model)[path], weight, rtol=1e-3, atol=1e-4, err_msg=path)


@pytest.mark.parametrize(
    "from_layer, trained",
    [
        (HEAD, {"logit"}),
        (FINETUNE, {"conv3", "bn3", "logit"}),
        (EVERYTHING, {"conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "logit"}),
    ],
)
def test_trainable_weights_move_and_frozen_ones_and_batchnorm_statistics_stay(
    from_layer: int | None, trained: set[str]
):
    before = read_weights(build(dropout=0.5))
    after = read_weights(unbroken(from_layer)[1])
    moved = {path for path, weight in after.items() if not np.array_equal(weight, before[path])}
    assert moved == {path for path in after if path.split("/")[0] in trained and "/moving_" not in path}


def test_with_nothing_frozen_training_learns_from_images():
    history, _ = unbroken(EVERYTHING)
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]


def test_the_same_seed_gives_the_same_bits():
    assert_same(train(from_layer=EVERYTHING, dropout=0.5), unbroken(EVERYTHING))


def test_another_seed_gives_other_weights():
    one, other = unbroken(HEAD)[1], train(dropout=0.5, seed=2)[1]
    assert not np.array_equal(read_weights(one)["logit/kernel"], read_weights(other)["logit/kernel"])


def test_every_epoch_takes_each_image_once_in_another_order():
    epochs: list[list[int]] = [[]]

    class Recorded(Batches):
        def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
            epochs[-1] += self.rows[index * self.batch_size : (index + 1) * self.batch_size].tolist()
            return super().__getitem__(index)

    images = Recorded(DATASET.train.images[:20], DATASET.train.labels[:20], 8)
    val = Batches(DATASET.val.images, DATASET.val.labels, 8)
    fit(build(), images, val, PARAMS, 1e-2, {0: 1.0, 1: 1.0}, Path("state"), lambda *_: epochs.append([]))
    taken = [epoch[-20:] for epoch in epochs[:3]]  # Keras looks at a batch or two before the first epoch begins
    assert all(sorted(epoch) == list(range(20)) for epoch in taken)
    assert len({tuple(epoch) for epoch in taken}) == 3


def test_every_epoch_draws_one_variant_of_each_image():
    model = build(dropout=0.5)
    epochs = [draw_epoch(model, images=20, views=3, seed=1, epoch=epoch) for epoch in range(8)]
    assert all(sorted(rows // 3) == list(range(20)) for rows in epochs)
    assert all(set(rows % 3) == {0, 1, 2} for rows in epochs)
    variants = np.array([rows[np.argsort(rows)] % 3 for rows in epochs])
    assert (variants.min(axis=0) < variants.max(axis=0)).all()


def test_variants_change_nothing_else_that_is_drawn():
    drawn = []
    for views in (1, 3):
        model = build(dropout=0.5)
        order = draw_epoch(model, images=20, views=views, seed=1, epoch=2) // views
        drawn.append([order.tolist(), [np.asarray(v).tolist() for v in model.variables if "seed_generator" in v.path]])
    assert drawn[0] == drawn[1]


def test_a_variant_is_trained_on_with_the_label_of_its_image():
    images = with_views(3).train
    batches = Batches(images.images, images.labels, 8)
    assert np.array_equal(batches[0][0][..., 0], DATASET.train.images[:8])  # before the first epoch: images as they are
    batches.rows = draw_epoch(build(), 24, 3, seed=1, epoch=0)
    for index in range(len(batches)):
        x, y = batches[index]
        rows = batches.rows[8 * index : 8 * index + 8]
        assert np.array_equal(x[..., 0], images.images[rows])
        assert np.array_equal(y[:, 0], images.labels[rows // 3])


def test_the_automatic_learning_rate_trains_as_the_same_number_does():
    trainable, images, _ = prepare(build(0.5), HEAD, DATASET, 8, CACHE)
    found, _ = choose_learning_rate(
        trainable, images, PARAMS.model_copy(update={"learning_rate": "auto"}), {0: 1.0, 1: 1.0}
    )
    automatic = train("automatic", dropout=0.5, learning_rate="auto", schedule="one_cycle")
    assert_same(automatic, train("number", dropout=0.5, learning_rate=found, schedule="one_cycle"))


def test_learning_rate_and_momentum_of_every_step_are_told_and_the_last_one_of_an_epoch_is_kept():
    told: list[pd.DataFrame] = []
    history, _ = train(schedule="one_cycle", on_epoch=lambda epoch, logs, rates: told.append(rates))
    rates = pd.concat(told)
    assert rates.index.to_list() == list(range(1, 10))
    assert history["learning_rate"].to_list() == rates["learning_rate"].loc[[3, 6, 9]].to_list()
    assert rates["momentum"].between(0.85, 0.95).all()


@pytest.mark.parametrize("schedule, views", [("constant", 1), ("one_cycle", 3)])
def test_training_that_was_stopped_ends_in_the_same_bits_when_resumed(schedule: str, views: int):
    images = with_views(views)
    with pytest.raises(Stop):
        train("broken", FINETUNE, dropout=0.5, dataset=images, on_epoch=stop_after(0), schedule=schedule)
    assert len(json.loads(Path("broken/history.json").read_text())) == 1
    resumed = train("broken", FINETUNE, dropout=0.5, dataset=images, schedule=schedule)
    assert_same(resumed, unbroken(FINETUNE, schedule, views))


def test_more_epochs_go_on_after_fewer():
    train(dropout=0.5, epochs=1)
    assert_same(train(dropout=0.5), unbroken(HEAD))


def test_training_that_was_finished_is_only_read_again():
    first = train(dropout=0.5)
    files = {path: path.stat().st_mtime_ns for path in Path("state").iterdir()}
    assert_same(train(dropout=0.5), first)
    assert {path: path.stat().st_mtime_ns for path in Path("state").iterdir()} == files


def test_weights_of_an_epoch_that_history_does_not_name_do_not_count():
    with pytest.raises(Stop):
        train("broken", dropout=0.5, on_epoch=stop_after(1))
    Path("broken/epoch0002.weights.h5").write_bytes(b"half a fi")
    Path("broken/.partial-1-epoch0002.weights.h5").write_bytes(b"half")
    assert_same(train("broken", dropout=0.5), unbroken(HEAD))


def test_every_epoch_is_told_while_it_ends_and_the_last_one_again_on_resuming():
    told: list[int] = []

    def tell(epoch: int, logs: dict[str, float], rates: pd.DataFrame) -> None:
        assert json.loads(Path("state/history.json").read_text())[epoch] == logs
        told.append(epoch)

    train(epochs=2, on_epoch=tell)
    train(epochs=2, on_epoch=tell)
    assert told == [0, 1, 1]


def test_no_more_weights_are_kept_than_those_of_the_last_and_the_best_epoch():
    history, _, kept = spoilt("val_loss")
    epochs = (4, int(history["val_loss"].argmin()))
    assert kept == {f"epoch{epoch:04d}.weights.h5" for epoch in epochs} | {"history.json"}


@pytest.mark.parametrize(
    "monitor, best", [("val_loss", "argmin"), ("val_auc", "argmax"), ("val_f1", "argmax"), ("val_accuracy", "argmax")]
)
def test_the_model_is_left_with_the_weights_of_the_best_epoch(monitor: str, best: str):
    history, model, _ = spoilt(monitor)
    row = history.iloc[getattr(history[monitor], best)()]
    assert row["epoch"] < 5, "the last epoch was best: this proves nothing"
    probabilities = calibrate(predict_log_odds(model, INVERTED.val.images), 1.0)
    assert log_loss(INVERTED.val.labels, probabilities) == pytest.approx(row["val_loss"], rel=1e-3)


def test_an_epoch_that_diverged_is_never_the_best():
    _, expected = train(epochs=1)
    history = json.loads(Path("state/history.json").read_text())
    Path("state/history.json").write_text(json.dumps([*history, history[0] | {"val_loss": float("nan")}]))
    shutil.copy("state/epoch0000.weights.h5", "state/epoch0001.weights.h5")
    _, model = train(epochs=2)
    assert read_weights(model)["logit/kernel"].tobytes() == read_weights(expected)["logit/kernel"].tobytes()


def test_training_stops_when_it_waited_long_enough_for_a_better_epoch():
    history, _ = train(dataset=INVERTED, epochs=30, learning_rate=0.1, patience=2)
    assert len(history) < 30
    assert len(history) == int(history["val_loss"].argmin()) + 1 + 2


def test_class_weights_multiply_the_loss_of_training_and_not_of_validation():
    once, _ = train("once", epochs=1, learning_rate=1e-9)
    twice, _ = train("twice", epochs=1, learning_rate=1e-9, dataset=replace(DATASET, class_weight={0: 2.0, 1: 2.0}))
    assert twice["loss"][0] == pytest.approx(2 * once["loss"][0], rel=1e-4)
    assert twice["val_loss"][0] == pytest.approx(once["val_loss"][0], rel=1e-4)


def test_measured_f1_and_accuracy_follow_from_probability_one_half():
    history, model = unbroken(EVERYTHING)
    best = history.iloc[int(history["val_loss"].argmin())]
    calls, labels = predict_log_odds(model, DATASET.val.images) >= 0, DATASET.val.labels == 1
    assert best["val_accuracy"] == pytest.approx(accuracy_score(labels, calls))
    assert best["val_f1"] == pytest.approx(f1_score(labels, calls))


def test_the_kept_epoch_is_described_by_its_row():
    history, _ = unbroken(EVERYTHING)
    best = describe_best(history, "val_loss")
    assert best == history.iloc[int(history["val_loss"].argmin())].to_dict()


def test_unfinished_training_belongs_to_one_phase_data_section_precision_and_set_of_weights():
    Path("one.pkl").write_bytes(b"images")
    Path("same.pkl").write_bytes(b"images")
    Path("other.pkl").write_bytes(b"other images")
    model = build()
    state = find_state("train", Path("one.pkl"), model, PARAMS, "float32")
    assert find_state("train", Path("same.pkl"), model, PARAMS, "float32") == state
    others = [
        find_state("finetune", Path("one.pkl"), model, PARAMS, "float32"),
        find_state("train", Path("other.pkl"), model, PARAMS, "float32"),
        find_state("train", Path("one.pkl"), model, PARAMS.model_copy(update={"learning_rate": 0.02}), "float32"),
        find_state("train", Path("one.pkl"), model, PARAMS, "bfloat16"),
    ]
    logit: Any = model.get_layer("logit")
    logit.bias.assign_add([0.1])
    others.append(find_state("train", Path("one.pkl"), model, PARAMS, "float32"))
    assert len({state, *others}) == 6
