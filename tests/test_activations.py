"""What a frozen prefix says about a film is computed once, and only whole answers are kept."""

import os
from pathlib import Path

import keras
import numpy as np
import pytest

from pneumonia import activations
from pneumonia.activations import fingerprint, read_activations
from pneumonia.model import build_model, cut_model, load_model, save_model
from pneumonia.params import ModelParams

FILMS = np.random.default_rng(0).integers(0, 256, (10, 32, 32), dtype=np.uint8)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty project whose batches are smaller than its films are many."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(activations, "BATCH_SIZE", 4)
    return tmp_path


@pytest.fixture(scope="module")
def classifier() -> keras.Model:
    return build_model(ModelParams(backbone="tiny", weights="none", image_size=32, dropout=0.0))


def cut_prefix(model: keras.Model, from_layer: int | None = 7) -> keras.Model:
    prefix = cut_model(model, from_layer).prefix
    assert prefix
    return prefix


@pytest.fixture
def prefix(classifier: keras.Model) -> keras.Model:
    return cut_prefix(classifier)


def list_cache() -> list[Path]:
    return sorted(path for path in Path(".cache").rglob("*") if path.is_file())


@pytest.mark.parametrize("from_layer", [None, 4, 7])
def test_activations_are_what_the_prefix_predicts(classifier: keras.Model, from_layer: int | None):
    prefix = cut_prefix(classifier, from_layer)
    predicted = prefix.predict(FILMS[..., None], verbose=0)  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(read_activations(prefix, FILMS), predicted, rtol=1e-4, atol=1e-5)


def test_the_second_call_reads_what_the_first_one_wrote(prefix: keras.Model):
    first = np.array(read_activations(prefix, FILMS))
    (entry,) = list_cache()
    os.utime(entry, (1, 1))
    np.testing.assert_array_equal(read_activations(prefix, FILMS), first)
    assert [(path, path.stat().st_mtime) for path in list_cache()] == [(entry, 1)]


def test_the_model_as_loaded_from_its_file_reads_the_same_entry(classifier: keras.Model, prefix: keras.Model):
    read_activations(prefix, FILMS)
    save_model(classifier, Path("model.keras"))
    read_activations(cut_prefix(load_model(Path("model.keras"))), FILMS)
    assert len(list_cache()) == 1


@pytest.mark.parametrize("layer", ["conv1", "bn1"])
def test_other_weights_or_statistics_give_another_entry(layer: str):
    model = build_model(ModelParams(backbone="tiny", weights="none", image_size=32, dropout=0.0))
    prefix = cut_prefix(model)
    before = np.array(read_activations(prefix, FILMS))
    weight = model.get_layer("tiny").get_layer(layer).weights[-1]
    weight.assign(weight + 0.5)
    assert not np.allclose(read_activations(prefix, FILMS), before)
    assert len(list_cache()) == 2


def test_another_structure_with_the_same_weights_is_another_model():
    inputs = keras.layers.Input((4,), name="input")
    models = [keras.Model(inputs, keras.layers.Activation(name, name="same")(inputs)) for name in ("relu", "tanh")]
    assert fingerprint(models[0]) != fingerprint(models[1])


def test_what_is_trainable_above_the_cut_does_not_matter(classifier: keras.Model, prefix: keras.Model):
    before = fingerprint(prefix)
    logit = classifier.get_layer("logit")
    logit.set_weights([weight + 1 for weight in logit.get_weights()])
    assert fingerprint(prefix) == before


@pytest.mark.parametrize("change", ["pixel", "order", "number"])
def test_other_films_give_another_entry(prefix: keras.Model, change: str):
    read_activations(prefix, FILMS)
    others = {"pixel": FILMS.copy(), "order": FILMS[::-1], "number": FILMS[:5]}
    others["pixel"][3, 5, 7] ^= 1
    read_activations(prefix, others[change])
    assert len(list_cache()) == 2


def test_an_interrupted_computation_leaves_nothing_and_the_next_one_is_whole(
    prefix: keras.Model, monkeypatch: pytest.MonkeyPatch
):
    def interrupt(model: keras.Model, images: np.ndarray):
        yield 0, np.zeros((4, *prefix.output_shape[1:]), np.float32)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(activations, "run_batches", interrupt)
        read_activations(prefix, FILMS)
    assert list_cache() == []
    assert np.any(read_activations(prefix, FILMS)[:4])


def test_activations_stay_on_disk_and_cannot_be_changed(prefix: keras.Model):
    found = read_activations(prefix, FILMS)
    assert isinstance(found, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1
