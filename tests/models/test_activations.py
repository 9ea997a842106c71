"""The activations of an image are computed once, and are the same bits whenever and in whatever batch."""

import errno
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
from keras import layers

from pneumonia.core.errors import InputError
from pneumonia.core.params import CacheParams, ComputeParams, ModelParams
from pneumonia.core.runtime import has_bfloat16
from pneumonia.models import activations as activations
from pneumonia.models import row_store as row_store
from pneumonia.models.activations import ActivationCache, fingerprint
from pneumonia.models.classifier import build_model, load_model, save_model
from pneumonia.models.cut import cut_model, freeze_below

IMAGES = np.random.default_rng(0).integers(0, 256, (10, 32, 32), dtype=np.uint8)
PARAMS = ModelParams(backbone="tiny", weights="none", image_size=32, dropout=0.0, head="sigmoid")
# First trainable layer: none of the backbone, bn3, conv3 at the default cut, conv2.
HEAD, HIGHER, FINETUNE, LOWER = None, 8, 7, 4
SPAWN = multiprocessing.get_context("spawn")  # a process that starts as a stage does
Frozen = Sequence[keras.Model]


class Pass(NamedTuple):
    """A pass of images through a frozen part."""

    part: str
    images: int


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty project."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def classifier() -> keras.Model:
    return build_model(PARAMS)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[Pass]:
    """Return a list to which every pass of images through a frozen part is added."""
    return record_passes(monkeypatch)


def record_passes(monkeypatch: pytest.MonkeyPatch, seconds: float = 0) -> list[Pass]:
    """Note every pass of images through a frozen part; wait `seconds` before each batch."""
    run_batches, noted = activations.run_batches, list[Pass]()

    def run(model: keras.Model, inputs: Any, batch_size: int) -> Iterator[tuple[int, Any]]:
        noted.append(Pass(model.name, len(inputs)))
        for batch in run_batches(model, inputs, batch_size):
            time.sleep(seconds)
            yield batch

    monkeypatch.setattr(activations, "run_batches", run)
    return noted


def open_cache(precision: Any = "float32", batch_size: int = 4, max_gb: float = 1) -> ActivationCache:
    # Small batches, which the parameters refuse, make several of ten images.
    compute = ComputeParams.model_construct(precision=precision, batch_size=batch_size, threads="auto")
    return ActivationCache(compute, CacheParams(max_gb=max_gb))


def cut(model: keras.Model, from_layer: int | None = FINETUNE) -> Frozen:
    freeze_below(model, from_layer)
    return cut_model(model).frozen


def read(frozen: Frozen, images: np.ndarray = IMAGES, **cache: Any) -> np.ndarray:
    """Return a copy of the activations."""
    return open_cache(**cache).read(frozen, images)[:]


def forget() -> None:
    shutil.rmtree(".cache")


def list_entries() -> list[Path]:
    return sorted(Path(".cache/activations").glob("*/"))


def count_bytes() -> int:
    return sum(rows.stat().st_size for rows in Path(".cache/activations").glob("*/rows"))


def count_known() -> int:
    return sum(len(index.read_bytes()) // 36 for index in Path(".cache/activations").glob("*/index"))


@pytest.mark.parametrize("from_layer", [HEAD, HIGHER, FINETUNE, LOWER])
def test_activations_are_the_predictions_of_the_frozen_parts(classifier: keras.Model, from_layer: int | None):
    frozen = cut(classifier, from_layer)
    x = IMAGES[..., None]
    for part in frozen:
        x = part.predict(x, verbose=0)  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(read(frozen), x, rtol=1e-4, atol=1e-5)


def test_the_second_call_computes_nothing(classifier: keras.Model, passes: list[Pass]):
    first = read(cut(classifier))
    assert passes == [("to_add2", 10)]
    assert read(cut(classifier)).tobytes() == first.tobytes()
    assert len(passes) == 1


def test_only_images_that_are_not_cached_are_computed(classifier: keras.Model, passes: list[Pass]):
    frozen = cut(classifier, HEAD)
    read(frozen, IMAGES[:7])
    several = read(frozen, IMAGES[[9, 3, 8, 1]])
    assert passes == [("to_add2", 7), ("to_relu3", 7), ("to_add2", 2), ("to_relu3", 2)]
    forget()
    assert several.tobytes() == read(frozen)[[9, 3, 8, 1]].tobytes()


def test_equal_images_are_computed_once(classifier: keras.Model, passes: list[Pass]):
    rows = [0, 1, 0, 0, 2, 1]
    several = read(cut(classifier), IMAGES[rows])
    assert passes == [("to_add2", 3)]
    assert several.tobytes() == read(cut(classifier), IMAGES[:3])[rows].tobytes()
    assert len(passes) == 1


def test_one_changed_pixel_makes_another_image(classifier: keras.Model, passes: list[Pass]):
    read(cut(classifier))
    changed = IMAGES.copy()
    changed[3, 5, 7] ^= 1
    read(cut(classifier), changed)
    assert passes[1:] == [("to_add2", 1)]


def test_images_are_told_apart_by_their_pixels_and_not_by_how_they_lie_in_memory(
    classifier: keras.Model, passes: list[Pass]
):
    first = read(cut(classifier))
    strided = np.asfortranarray(IMAGES.repeat(2, axis=0))[::2]
    assert read(cut(classifier), strided).tobytes() == first.tobytes()
    assert len(passes) == 1


def assert_same_in_any_order(frozen: Frozen, images: np.ndarray, batch_size: int) -> None:
    """Compute images anew permuted and in part, and compare each row bit by bit."""
    expected = read(frozen, images, batch_size=batch_size)
    for rows in (np.random.default_rng(1).permutation(len(images)), np.array([6, 2, 3]), np.array([5])):
        forget()
        again = read(frozen, images[rows], batch_size=batch_size)
        assert [row.tobytes() for row in again] == [row.tobytes() for row in expected[rows]]


@pytest.mark.parametrize("batch_size", [4, 3])
def test_neither_order_nor_number_of_images_change_a_bit(classifier: keras.Model, batch_size: int):
    assert_same_in_any_order(cut(classifier, HEAD), IMAGES, batch_size)


def test_neither_order_nor_number_of_images_change_a_bit_of_a_real_backbone():
    params = ModelParams(backbone="efficientnet_lite0", weights="imagenet", image_size=64, dropout=0.0, head="sigmoid")
    images = np.random.default_rng(0).integers(0, 256, (10, 64, 64), dtype=np.uint8)
    assert_same_in_any_order(cut(build_model(params), HEAD), images, 16)  # in smaller ones both do without AVX-512


def test_each_batch_size_has_its_own_entry_as_it_may_round_differently(classifier: keras.Model, passes: list[Pass]):
    read(cut(classifier), batch_size=3)
    read(cut(classifier), batch_size=4)
    assert passes == [("to_add2", 10)] * 2


def test_the_model_as_loaded_from_its_file_reads_the_same_entry(classifier: keras.Model, passes: list[Pass]):
    read(cut(classifier, HEAD))
    save_model(classifier, Path("model.keras"))
    read(cut_model(load_model(Path("model.keras"))).frozen)
    assert len(passes) == 2
    assert len(list_entries()) == 2


@pytest.mark.parametrize("layer", ["conv1", "bn1"])
def test_other_weights_or_statistics_give_another_entry(layer: str):
    model = build_model(PARAMS)
    before = read(cut(model))
    weight = model.get_layer("tiny").get_layer(layer).weights[-1]
    weight.assign(weight + 0.5)
    assert not np.allclose(read(cut(model)), before)
    assert len(list_entries()) == 2


def test_each_precision_has_its_own_entry(classifier: keras.Model, monkeypatch: pytest.MonkeyPatch, passes: list[Pass]):
    monkeypatch.setattr(activations, "use_precision", lambda precision: None)
    read(cut(classifier))
    read(cut(classifier), precision="bfloat16")
    assert passes == [("to_add2", 10)] * 2
    assert len(list_entries()) == 2


def test_the_same_model_built_again_reads_the_same_entry(classifier: keras.Model, passes: list[Pass]):
    read(cut(classifier, HEAD))
    again = build_model(PARAMS)  # Keras counts names of layers on
    again.set_weights(classifier.get_weights())
    read(cut(again, HEAD))
    assert len(passes) == 2


def test_freezing_does_not_change_the_entry(classifier: keras.Model):
    frozen = cut(classifier, HEAD)
    before = [fingerprint(part) for part in frozen]
    freeze_below(classifier, 0)
    assert [fingerprint(part) for part in frozen] == before


def test_weights_above_the_cut_do_not_change_the_entry(passes: list[Pass]):
    model = build_model(PARAMS)
    read(cut(model))
    logit = model.get_layer("logit")
    logit.set_weights([weight + 1 for weight in logit.get_weights()])
    read(cut(model))
    assert len(passes) == 1


def chain(*functions: str, names: Sequence[str] = ("one", "two", "three")) -> keras.Model:
    """Return a model without weights: named activations in a row."""
    x = inputs = layers.Input((4,))
    for function, name in zip(functions, names, strict=False):
        x = layers.Activation(function, name=name)(x)
    return keras.Model(inputs, x)


def wire(order: Sequence[int], names: Sequence[str] = ("first", "second")) -> keras.Model:
    """Return a model that subtracts the outputs of two layers with the same weights, in an order."""
    inputs = layers.Input((4,))
    one = layers.Dense(4, "relu", kernel_initializer="ones", name=names[0])(inputs)
    two = layers.Dense(4, "relu", kernel_initializer="ones", name=names[1])(one)
    return keras.Model(inputs, layers.Subtract(name="subtract")([(one, two)[number] for number in order]))


@pytest.mark.parametrize(
    "one, other",
    [
        (lambda: chain("relu"), lambda: chain("tanh")),
        (lambda: chain("relu", "tanh"), lambda: chain("tanh", "relu")),
        (lambda: chain("relu"), lambda: chain("relu", "relu")),
        (lambda: chain("relu", names=["relu"]), lambda: chain("tanh", names=["tanh"])),
        (lambda: wire([0, 1]), lambda: wire([1, 0])),
        (lambda: wire([0, 1], names="32"), lambda: wire([1, 0], names="32")),
    ],
    ids=["function", "order", "number", "functions that layers are called like", "wiring", "wiring of numbered layers"],
)
def test_another_structure_with_the_same_weights_is_another_model(one: Any, other: Any):
    assert fingerprint(one()) != fingerprint(other())


@pytest.mark.parametrize("names", [["a", "b"], ["relu", "tanh"], ["tanh", "relu"], ["2", "1"]])
def test_names_of_layers_do_not_change_the_fingerprint(names: Sequence[str]):
    assert fingerprint(chain("relu", "tanh", names=names)) == fingerprint(chain("relu", "tanh"))
    assert fingerprint(wire([0, 1], names)) == fingerprint(wire([0, 1]))


def test_the_heads_activations_are_computed_from_those_that_fine_tuning_reads(
    classifier: keras.Model, passes: list[Pass]
):
    frozen = cut(classifier, HEAD)
    read(frozen)
    assert passes == [("to_add2", 10), ("to_relu3", 10)]
    assert len(cut(classifier)) == 1
    assert read(cut(classifier)).tobytes() == read(frozen[:1]).tobytes()
    assert len(passes) == 2


def read_as_another_process_does(images: np.ndarray, barrier: Any, results: Any) -> None:
    """Read images with the model in model.keras, slowly, and tell what was computed and what came out."""
    frozen = cut_model(load_model(Path("model.keras"))).frozen
    with pytest.MonkeyPatch.context() as patch:
        passes = record_passes(patch, seconds=0.2)
        barrier.wait()
        rows = read(frozen, images)
        results.put((passes, rows))


def start_process(images: np.ndarray, barrier: Any, results: Any = None) -> Any:
    process = SPAWN.Process(target=read_as_another_process_does, args=(images, barrier, results))
    process.start()
    return process


def test_an_interrupted_computation_resumes(classifier: keras.Model, passes: list[Pass]):
    frozen = cut(classifier, FINETUNE)
    save_model(classifier, Path("model.keras"))
    barrier = SPAWN.Barrier(2, timeout=180)
    process = start_process(IMAGES, barrier)
    barrier.wait()
    while not count_known():
        assert process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    known = count_known()
    assert 0 < known < 10
    resumed = read(frozen)
    assert passes == [("to_add2", 10 - known)]
    forget()
    assert resumed.tobytes() == read(frozen).tobytes()


def test_two_processes_that_ask_at_once_compute_each_image_once(classifier: keras.Model):
    frozen = cut(classifier, HEAD)
    save_model(classifier, Path("model.keras"))
    barrier, results = SPAWN.Barrier(2, timeout=180), SPAWN.Queue()
    processes = [start_process(images, barrier, results) for images in (IMAGES[:7], IMAGES[3:])]
    answers = sorted((results.get(timeout=180) for _ in processes), key=lambda answer: len(answer[1][0]))
    for process in processes:
        process.join()
    computed = [done for passes, _ in answers for done in passes]
    for part in frozen:
        assert sum(images for name, images in computed if name == part.name) == 10
    expected = read(frozen)
    assert {rows.tobytes() for _, rows in answers} == {expected[:7].tobytes(), expected[3:].tobytes()}


@pytest.mark.parametrize("name", ["rows", "index"])
def test_a_flipped_bit_is_noticed_and_that_image_computed_again(classifier: keras.Model, passes: list[Pass], name: str):
    first = read(cut(classifier))
    path = list_entries()[0] / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert read(cut(classifier)).tobytes() == first.tobytes()
    assert passes[1:] == [("to_add2", 1)]


@pytest.mark.parametrize("name", ["rows", "index"])
def test_what_a_truncated_file_lost_is_computed_again(classifier: keras.Model, passes: list[Pass], name: str):
    first = read(cut(classifier))
    path = list_entries()[0] / name
    os.truncate(path, path.stat().st_size * 3 // 4)
    assert read(cut(classifier), IMAGES[:7]).tobytes() == first[:7].tobytes()
    assert len(passes) == 1
    assert read(cut(classifier)).tobytes() == first.tobytes()
    assert passes[1:] == [("to_add2", 3)]


def test_a_full_disk_loses_no_cached_activations(
    classifier: keras.Model, monkeypatch: pytest.MonkeyPatch, passes: list[Pass]
):
    first = read(cut(classifier), IMAGES[:3])

    def refuse(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(row_store, "_write_at", refuse)
        read(cut(classifier))
    passes.clear()
    assert read(cut(classifier), IMAGES[:3]).tobytes() == first.tobytes()
    assert passes == []


def test_activations_stay_on_disk_and_cannot_be_changed(classifier: keras.Model):
    found = open_cache().read(cut(classifier), IMAGES)
    assert isinstance(found.array, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        found.array[0] = 1
    before = found[:].tobytes()
    found[:][0] = 1
    assert found[:].tobytes() == before


def test_rows_are_read_by_slice_by_number_and_by_list(classifier: keras.Model):
    found = open_cache().read(cut(classifier), IMAGES[[4, 4, 1]])
    assert len(found) == 3
    assert found[1:][0].tobytes() == found[1].tobytes() == found[np.array([0])][0].tobytes()
    assert found[2].tobytes() != found[1].tobytes()


def test_no_images_give_no_activations(classifier: keras.Model):
    found = open_cache().read(cut(classifier), IMAGES[:0])
    assert found[:].shape == (0, 8, 8, 8)


def test_the_least_recently_used_entry_makes_room(passes: list[Pass]):
    models = [build_model(PARAMS) for _ in range(3)]
    for model in models[:2]:
        read(cut(model))
    entry = count_bytes() / 2 / 1e9
    read(cut(models[0]))  # uses it
    read(cut(models[2]), max_gb=2.5 * entry)
    passes.clear()
    read(cut(models[0]))
    read(cut(models[2]))
    assert passes == []
    read(cut(models[1]))
    assert passes == [("to_add2", 10)]


def test_other_images_in_an_entry_make_room(classifier: keras.Model, passes: list[Pass]):
    frozen = cut(classifier)
    read(frozen, IMAGES[:6])
    expected = read(frozen, IMAGES[3:])
    entry = count_bytes() / 1e9
    others = 255 - IMAGES[:4]
    passes.clear()
    found = read(frozen, np.concatenate([IMAGES[3:], others]), max_gb=1.2 * entry)
    assert found[:7].tobytes() == expected.tobytes()
    assert passes == [("to_add2", 11)]


@pytest.mark.parametrize("from_layer", [HEAD, HIGHER, FINETUNE, LOWER])
@pytest.mark.parametrize("share", [0.9, 1.1, 1.4])
def test_the_cache_stays_below_its_limit(from_layer: int | None, share: float):
    one, other = (cut(build_model(PARAMS), from_layer) for _ in range(2))
    read(one)
    limit = share * count_bytes()
    for images in (IMAGES[:5], IMAGES, 255 - IMAGES):
        with suppress(InputError):
            read(other, images, max_gb=limit / 1e9)
            assert count_bytes() <= limit


@pytest.mark.parametrize("from_layer, size", [(FINETUNE, "2.05e-05"), (HIGHER, "3.07e-05")])
def test_more_images_than_the_limit_can_hold_are_refused_in_three_parts_and_nothing_is_removed(
    classifier: keras.Model, passes: list[Pass], from_layer: int, size: str
):
    read(cut(classifier, from_layer), IMAGES[:3])
    before = [count_bytes(), len(passes)]
    with pytest.raises(InputError) as refusal:
        read(cut(classifier, from_layer), max_gb=2e-5)
    lines = str(refusal.value).splitlines()
    assert lines[0] == f"The activations of 10 images take {size} GB."
    assert lines[1] == "  Expected: at most cache.max_gb, 2e-05 GB"
    assert lines[2].startswith("  Remedy: raise cache.max_gb")
    assert [count_bytes(), len(passes)] == before


def read_in_bfloat16() -> None:
    np.save("coarse.npy", read(cut_model(load_model(Path("model.keras"))).frozen, precision="bfloat16"))


@pytest.mark.bfloat16
@pytest.mark.skipif(not has_bfloat16(), reason="this processor has no bfloat16")
def test_bfloat16_rounds_a_little_coarser_and_is_kept_apart(classifier: keras.Model):
    frozen = cut(classifier, HEAD)
    exact = read(frozen)
    save_model(classifier, Path("model.keras"))
    process = SPAWN.Process(target=read_in_bfloat16)
    process.start()
    process.join()
    coarse = np.load("coarse.npy")
    assert 0 < np.abs(coarse - exact).max() < 0.02 * np.abs(exact).max()
    assert len(list_entries()) == 4
