"""A classifier takes raw grey values, is cut where its frozen part ends, and is saved as the same bytes each time."""

import sys
import time
import zipfile
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from pneumonia.core.errors import InputError
from pneumonia.core.params import ModelParams
from pneumonia.models.activations import fingerprint
from pneumonia.models.backbones import BACKBONES, find_backbone
from pneumonia.models.classifier import build_model, count_parameters, load_model, save_model
from pneumonia.models.cut import Cut, cut_model, find_cut, find_layer, freeze_below, get_backbone

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 1)).astype(np.float32)


def build(backbone: str, image_size: Any = 32, dropout: float = 0.0, head: Any = "sigmoid") -> keras.Model:
    params = ModelParams(backbone=backbone, weights="none", head=head, image_size=image_size, dropout=dropout)
    return build_model(params)


def call(model: keras.Model, x: Any) -> np.ndarray:
    return np.asarray(model(x, training=False))


def cut_from(model: keras.Model, from_layer: int | str | None) -> Cut:
    freeze_below(model, None if from_layer is None else find_layer(get_backbone(model), from_layer))
    return cut_model(model)


def call_frozen(cut: Cut, x: Any) -> Any:
    for part in cut.frozen:
        x = call(part, x)
    return x


def describe(cut: Cut) -> list[tuple[str, Any, str]]:
    """Return name, output shape and fingerprint of each frozen part."""
    return [(part.name, part.output_shape, fingerprint(part)) for part in cut.frozen]


class Models(dict[str, keras.Model]):
    """Classifiers by backbone, each built when it is first asked for."""

    def __init__(self, inception: keras.Model) -> None:
        super().__init__(inception_v3=inception)

    def __missing__(self, backbone: str) -> keras.Model:
        self[backbone] = build(backbone, 64)
        return self[backbone]


@pytest.fixture(scope="module")
def inception() -> keras.Model:
    return build("inception_v3", "auto", dropout=0.5)


@pytest.fixture(scope="module")
def models(inception: keras.Model) -> Models:
    """Build one classifier per backbone, when it is first asked for, small where the backbone can be."""
    return Models(inception)


def test_inception_has_21_804_833_parameters_of_which_the_heads_2_049_are_trained_at_first(inception: keras.Model):
    freeze_below(inception, None)
    assert count_parameters(inception) == (21_804_833, 2_049)


def test_inception_trains_10_543_489_parameters_in_37_variables_from_layer_250(inception: keras.Model):
    freeze_below(inception, 250)
    assert (count_parameters(inception)[1], len(inception.trainable_variables)) == (10_543_489, 37)


def test_inception_is_cut_at_mixed8_for_layer_250(inception: keras.Model):
    assert find_backbone("inception_v3").from_layer == 250
    (part,) = cut_from(inception, 250).frozen
    assert (part.name, part.output_shape) == ("to_mixed8", (None, 8, 8, 1280))


def test_inceptions_head_trains_on_pooled_activations_that_are_computed_from_mixed8(inception: keras.Model):
    ends = [(part.name, part.output_shape) for part in cut_from(inception, None).frozen]
    assert ends == [("to_mixed8", (None, 8, 8, 1280)), ("to_mixed10", (None, 2048))]


@pytest.mark.parametrize(
    "backbone, parameters",
    [("densenet121", 7_037_504), ("resnet50", 23_587_712), ("resnet101", 42_658_176), ("mobilenet_v2", 2_257_984)],
)
def test_a_backbone_has_as_many_parameters_as_published_less_its_classifier(
    models: Models, backbone: str, parameters: int
):
    assert get_backbone(models[backbone]).count_params() == parameters


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_default_cut_is_a_single_tensor_right_below_the_layer_that_fine_tuning_begins_with(
    models: Models, backbone: str
):
    network = get_backbone(models[backbone])
    first = find_layer(network, "auto")
    assert first - 2 <= find_cut(network, first) < first
    assert find_cut(network, first) > len(network.layers) // 2


@pytest.mark.parametrize(
    "backbone, from_layer",
    [
        *(("tiny", layer) for layer in (None, "auto", "bn2", *range(10))),
        *(("efficientnet_lite0", layer) for layer in (None, "auto", 1, "block3b_project_bn", "block6a_depthwise_conv")),
        ("efficientnet_lite0", "top_conv"),  # above the default cut
        *(("inception_v3", layer) for layer in (None, "auto", 200, 310)),
        *((row, "auto") for row in BACKBONES if row not in ("tiny", "efficientnet_lite0", "inception_v3")),
    ],
)
def test_the_trainable_part_after_the_frozen_ones_equals_the_whole_model(
    models: Models, backbone: str, from_layer: int | str | None
):
    model = models[backbone]
    size = model.input_shape[1]
    images = IMAGES if size == 64 else np.tile(IMAGES[:2], (1, 5, 5, 1))[:, :size, :size]
    cut = cut_from(model, from_layer)
    np.testing.assert_allclose(call(cut.trainable, call_frozen(cut, images)), call(model, images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_cut_above_the_default_cut_begins_with_the_part_that_ends_there(models: Models, backbone: str):
    model = models[backbone]
    default, top = find_layer(get_backbone(model), "auto"), len(get_backbone(model).layers) - 1
    expected = describe(cut_from(model, "auto"))
    assert len(expected) == 1
    for from_layer in (None, (default + top) // 2):
        cut = cut_from(model, from_layer)
        assert describe(cut)[:1] == expected
        assert len(cut.frozen) <= 2


def test_below_the_default_cut_there_is_one_frozen_part(models: Models):
    ends = [[part.name for part in cut_from(models["tiny"], layer).frozen] for layer in ("conv1", "conv2")]
    assert ends == [[], ["to_relu1"]]


def test_a_layer_without_weights_is_frozen_whatever_was_asked_for(models: Models):
    model = models["tiny"]
    assert describe(cut_from(model, "add2")) == describe(cut_from(model, "conv3"))
    assert describe(cut_from(model, "relu3")) == describe(cut_from(model, None))


@pytest.mark.parametrize(
    "backbone, from_layer", [("tiny", None), ("tiny", 4), ("efficientnet_lite0", "auto"), ("densenet121", None)]
)
def test_a_model_that_was_saved_and_loaded_is_cut_at_the_same_place(
    models: Models, tmp_path: Path, backbone: str, from_layer: int | str | None
):
    cut = cut_from(models[backbone], from_layer)
    save_model(models[backbone], tmp_path / "model.keras")
    assert describe(cut_model(load_model(tmp_path / "model.keras"))) == describe(cut)


def scale_images(model: keras.Model) -> np.ndarray:
    side = model.input_shape[1]
    images = np.tile(IMAGES[:1], (1, 5, 5, 1))[:, :side, :side]
    return call(keras.Model(model.input, model.get_layer("scale").output), images)


APPLICATIONS = [name for name, row in BACKBONES.items() if row.builder.startswith("keras.applications")]


@pytest.mark.parametrize("backbone", APPLICATIONS)
def test_images_are_scaled_as_the_applications_own_preprocessing_does(models: Models, backbone: str):
    model = models[backbone]
    preprocess = sys.modules[resolve_name(BACKBONES[backbone].builder).__module__].preprocess_input
    side = model.input_shape[1]
    images = np.tile(IMAGES[:1], (1, 5, 5, 3))[:, :side, :side]
    np.testing.assert_allclose(scale_images(model), preprocess(images), rtol=1e-5, atol=1e-4)


def test_resnet34_takes_what_densenet_takes(models: Models):
    np.testing.assert_array_equal(scale_images(models["resnet34"]), scale_images(models["densenet121"]))


@pytest.mark.parametrize("size", [0, 1, 2])
def test_efficientnet_lite_takes_images_less_127_by_128(models: Models, size: int):
    expected = (np.repeat(IMAGES[:1], 3, axis=-1) - 127) / 128
    np.testing.assert_allclose(scale_images(models[f"efficientnet_lite{size}"]), expected, atol=1e-6)


def test_uint8_images_are_taken_as_they_are():
    model = build("tiny")
    images = IMAGES[:, :32, :32]
    np.testing.assert_allclose(call(model, images.astype(np.uint8)), call(model, images), rtol=1e-6)


@pytest.mark.parametrize("from_layer", [None, "auto", "conv2"])
def test_training_the_trainable_part_trains_the_model_that_is_saved(tmp_path: Path, from_layer: str | None):
    model = build("tiny")
    before = call(model, IMAGES[:, :32, :32])
    cut = cut_from(model, from_layer)
    activations = call_frozen(cut, IMAGES[:, :32, :32])
    cut.trainable.compile("sgd", "mse")
    cut.trainable.fit(activations, np.ones((4, 1)), epochs=3, verbose=0)  # pyright: ignore[reportArgumentType]
    save_model(model, tmp_path / "model.keras")
    after = call(load_model(tmp_path / "model.keras"), IMAGES[:, :32, :32])
    np.testing.assert_allclose(after, call(cut.trainable, activations), rtol=1e-4, atol=1e-5)
    assert np.abs(after - before).max() > 1e-3


@pytest.mark.parametrize("from_layer", [0, 4])
def test_the_trainable_part_computes_and_keeps_the_same_in_training_as_in_inference(from_layer: int):
    model = build("tiny")
    cut = cut_from(model, from_layer)
    before, x = model.get_weights(), call_frozen(cut, IMAGES[:, :32, :32])
    np.testing.assert_allclose(np.asarray(cut.trainable(x, training=True)), call(cut.trainable, x), rtol=1e-5)
    assert all(np.array_equal(one, other) for one, other in zip(before, model.get_weights(), strict=True))


def test_layers_from_from_layer_on_are_trainable_and_no_other():
    model = build("tiny")
    backbone = get_backbone(model)
    freeze_below(model, find_layer(backbone, "conv2"))
    trained = {name.path.split("/")[-2] for name in model.trainable_variables}
    assert trained == {"conv2", "bn2", "conv3", "bn3", "logit"}


# Handmade networks: the index of each layer is its place in the list that Keras keeps.


def straight() -> keras.Model:
    x = inputs = layers.Input((4,), name="input")
    for name in "abc":
        x = layers.Dense(4, name=name)(x)
    return keras.Model(inputs, x)


def residual() -> keras.Model:
    inputs = layers.Input((4,), name="input")
    x = layers.Dense(4, name="a")(inputs)
    y = layers.Dense(4, name="c")(layers.Dense(4, name="b")(x))
    return keras.Model(inputs, layers.Dense(4, name="d")(layers.Add(name="add")([x, y])))


def branched() -> keras.Model:
    inputs = layers.Input((4,), name="input")
    x = layers.Dense(4, name="a")(inputs)
    branches = [layers.Dense(4, name=name)(x) for name in ("left", "right")]
    return keras.Model(inputs, layers.Dense(4, name="b")(layers.Concatenate(name="concat")(branches)))


@pytest.mark.parametrize(
    "network, from_layer, cut",
    [
        (straight, "a", "input"),
        (straight, "b", "a"),
        (straight, "c", "b"),
        (residual, "b", "a"),
        (residual, "c", "a"),  # add also needs a
        (residual, "add", "a"),
        (residual, "d", "add"),
        (branched, "left", "a"),
        (branched, "right", "a"),
        (branched, "concat", "a"),
        (branched, "b", "concat"),
    ],
)
def test_the_cut_is_the_last_tensor_on_which_all_that_is_trained_depends(network: Any, from_layer: str, cut: str):
    model = network()
    names = [layer.name for layer in model.layers]
    assert names[find_cut(model, names.index(from_layer))] == cut


@pytest.mark.parametrize("from_layer", [0, 1])
def test_nothing_is_cut_off_when_every_layer_is_trained(from_layer: int):
    model = build("tiny")
    assert find_cut(get_backbone(model), from_layer) == 0
    assert cut_from(model, from_layer).frozen == ()


@pytest.mark.parametrize("name", ["no_such_layer", 10, -1])
def test_a_layer_the_backbone_does_not_have_is_refused(name: int | str):
    with pytest.raises(InputError, match=f"tiny has no layer {name!r}, which finetune.from_layer names"):
        find_layer(get_backbone(build("tiny")), name)


def test_the_same_model_saved_a_second_later_has_the_same_bytes(tmp_path: Path):
    model = build("tiny", dropout=0.5)
    save_model(model, tmp_path / "one.keras")
    time.sleep(1.1)
    save_model(model, tmp_path / "two.keras")
    assert (tmp_path / "one.keras").read_bytes() == (tmp_path / "two.keras").read_bytes()


def test_saving_leaves_nothing_beside_the_model(tmp_path: Path):
    save_model(build("tiny"), tmp_path / "model.keras")
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "text", "missing", "other archive"])
def test_a_damaged_model_is_refused_by_name(tmp_path: Path, damage: str):
    path = tmp_path / "damaged.keras"
    save_model(build("tiny"), path)
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "other archive":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", "[]")
            archive.writestr("metadata.json", "{}")
    else:
        flipped = whole[:5000] + bytes([whole[5000] ^ 255]) + whole[5001:]
        path.write_bytes({"truncated": whole[:-500], "flipped": flipped, "text": b"no model"}[damage])
    with pytest.raises(InputError, match=r"damaged\.keras cannot be loaded"):
        load_model(path)
