"""Serving predicts what evaluation measures, whatever way an image comes and whatever comes with it."""

from io import BytesIO
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from pneumonia.core.errors import InputError
from pneumonia.core.files import write_json
from pneumonia.core.params import CacheParams, ComputeParams, ModelParams
from pneumonia.evaluation.novelty import fit_novelty, gather_features
from pneumonia.images.decode import read_image
from pneumonia.images.refusal import ImageRefusedError
from pneumonia.inference.heatmaps import explain, overlay
from pneumonia.inference.operating_point import OperatingPoint
from pneumonia.inference.predictor import Answer, Predictor
from pneumonia.inference.scores import score_images
from pneumonia.models.activations import ActivationCache
from pneumonia.models.classifier import build_model, load_model, save_model
from pneumonia.models.cut import freeze_below
from pneumonia.sources.phantom import draw_phantoms

CACHE = ActivationCache(ComputeParams(precision="float32", batch_size=16, threads="auto"), CacheParams(max_gb=1))


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    raw = tmp_path_factory.mktemp("raw")
    draw_phantoms(raw, 60, seed=1)
    return [path.read_bytes() for path in sorted(raw.rglob("*.jpeg"))]


@pytest.fixture(scope="module")
def model(contents: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model that tells images apart, with all that belongs to it beside it."""
    folder, images = tmp_path_factory.mktemp("models"), np.stack([read_image(content, 32) for content in contents])
    keras.utils.set_random_seed(1)
    model = build_model(ModelParams(backbone="tiny", weights="none", image_size=32, dropout=0.5, head="sigmoid"))
    log_odds, layer = score_images(model, images), model.get_layer("logit")
    kernel, bias = layer.get_weights()
    layer.set_weights([2 / log_odds.std() * kernel, bias - 2 * log_odds.mean() / log_odds.std()])
    freeze_below(model, None)
    save_model(model, folder / "finetuned.keras")
    point = OperatingPoint(image_size=32, flip=False, temperature=1.5, threshold=0.5, rule="fixed", notice="Synthetic.")
    write_json(point.model_dump(), folder / "operating_point.json")
    features = gather_features(model, images)
    fit_novelty(features[::2], features[1::2]).write(folder / "novelty.npz")
    return folder / "finetuned.keras"


@pytest.fixture(scope="module")
def predictor(model: Path) -> Predictor:
    return Predictor.read(model)


@pytest.fixture(scope="module")
def images(contents: list[bytes], predictor: Predictor) -> np.ndarray:
    return np.stack([predictor.read_image(content) for content in contents[:20]])


def probabilities(answers: list[Answer]) -> list[float]:
    return [answer.probability for answer in answers]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("cache", [None, CACHE], ids=["uncached", "cached"])
def test_serving_and_evaluation_agree(
    predictor: Predictor, model: Path, images: np.ndarray, flip: bool, cache: ActivationCache | None,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    point = predictor.point.model_copy(update={"flip": flip})
    expected = point.calibrate(score_images(load_model(model), images, cache, flip))
    found = probabilities(Predictor(predictor.model, point, predictor.novelty).predict(images))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert np.ptp(found) > 0.1  # or they would agree whatever was computed


def test_with_flips_an_image_and_its_mirror_image_have_the_same_probability_and_their_own_novelty(
    predictor: Predictor, images: np.ndarray
) -> None:
    both = Predictor(predictor.model, predictor.point.model_copy(update={"flip": True}), predictor.novelty)
    found, mirrored, plain = both.predict(images), both.predict(images[..., ::-1]), predictor.predict(images)
    np.testing.assert_allclose(probabilities(found), probabilities(mirrored), rtol=0, atol=1e-6)
    assert np.abs(np.subtract(probabilities(found), probabilities(plain))).max() > 1e-4
    np.testing.assert_allclose([answer.novelty for answer in found], [answer.novelty for answer in plain], rtol=1e-4)


def test_an_image_alone_is_predicted_as_among_others(predictor: Predictor, images: np.ndarray) -> None:
    alone, among = [predictor.predict(image[None])[0] for image in images], predictor.predict(images)
    np.testing.assert_allclose(probabilities(alone), probabilities(among), rtol=0, atol=1e-6)
    assert [answer.decision for answer in alone] == [answer.decision for answer in among]


def test_the_decision_changes_at_the_threshold(predictor: Predictor, images: np.ndarray) -> None:
    found = probabilities(predictor.predict(images))
    point = predictor.point.model_copy(update={"threshold": sorted(found)[10]})
    answers = Predictor(predictor.model, point, predictor.novelty).predict(images)
    assert sum(answer.decision == "PNEUMONIA" for answer in answers) == 10


def test_noise_is_novel_and_training_images_are_not(predictor: Predictor, images: np.ndarray) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (5, *images.shape[1:]), dtype=np.uint8)
    assert all(answer.novel and answer.novelty > 1 for answer in predictor.predict(noise))
    assert sum(answer.novel for answer in predictor.predict(images)) <= 2


def test_a_stream_predicts_in_order_and_sets_aside_what_is_no_image(
    predictor: Predictor, contents: list[bytes], images: np.ndarray
) -> None:
    found = list(predictor.stream([b"no image", *contents[:20], b"", *contents[:20] * 4]))
    assert [number for number, (image, _) in enumerate(found) if image is None] == [0, 21]
    assert all(isinstance(found[number][1], ImageRefusedError) for number in (0, 21))
    answers = [answer for _, answer in found if isinstance(answer, Answer)]
    np.testing.assert_allclose(probabilities(answers), probabilities(predictor.predict(images)) * 5, rtol=0, atol=1e-6)


def test_grey_values_are_read_as_their_file_is(predictor: Predictor) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (90, 70), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(grey).save(file, "png")
    np.testing.assert_array_equal(predictor.read_pixels(grey), predictor.read_image(file.getvalue()))
    np.testing.assert_array_equal(predictor.read_pixels(grey), read_image(file.getvalue(), 32))


@pytest.mark.parametrize(
    "grey",
    [np.zeros((3, 3, 3), int), np.full((3, 3), 0.5), np.full((3, 3), 256), np.full((3, 3), -1), np.zeros((0, 3))],
)
def test_what_is_no_grey_image_is_refused(predictor: Predictor, grey: np.ndarray) -> None:
    with pytest.raises(ImageRefusedError, match="not grey values"):
        predictor.read_pixels(grey)


def test_its_heat_map_is_that_of_the_evaluation(predictor: Predictor, images: np.ndarray) -> None:
    np.testing.assert_allclose(predictor.explain(images), explain(predictor.model, images, "grad_cam"), atol=1e-5)


def test_a_heat_map_covers_an_image_by_its_heat_and_opacity(images: np.ndarray) -> None:
    cold, hot = np.zeros((32, 32), np.float32), np.ones((32, 32), np.float32)
    grey = np.repeat(images[0][..., None], 3, axis=-1)
    np.testing.assert_array_equal(overlay(images[0], cold), grey)
    np.testing.assert_array_equal(overlay(images[0], hot, opacity=0), grey)
    assert (overlay(images[0], hot, opacity=1) == overlay(images[1], hot, opacity=1)).all()


def test_a_predictor_carries_the_notice_the_name_and_the_card_of_its_model(model: Path, tmp_path: Path) -> None:
    for file in model.parent.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model_card.md").write_text("# Card")
    named, unnamed = Predictor.read(tmp_path / model.name, "3"), Predictor.read(model)
    assert (named.notice, named.name, named.card) == ("Synthetic.", "3", "# Card")
    assert (unnamed.name, unnamed.card) == (str(model), "")


@pytest.mark.parametrize("name", ["finetuned.keras", "novelty.npz"])
def test_a_file_that_the_operating_point_was_not_chosen_for_is_refused(name: str, model: Path, tmp_path: Path) -> None:
    for file in model.parent.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    point = OperatingPoint.read(tmp_path / "operating_point.json")
    point = point.bind(tmp_path / model.name, tmp_path / "novelty.npz", "")
    write_json(point.model_dump(), tmp_path / "operating_point.json")
    Predictor.read(tmp_path / model.name)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + b"0")
    with pytest.raises(InputError, match=rf"{name} is not the file that was evaluated(.|\n)*Expected(.|\n)*Remedy"):
        Predictor.read(tmp_path / model.name)


def test_a_model_without_the_files_that_belong_to_it_is_an_error_in_three_parts(model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.keras is no file(.|\n)*Expected: (.|\n)*Remedy: "):
        Predictor.read(tmp_path / "nowhere.keras")
    for name in ("finetuned.keras", "operating_point.json"):
        (tmp_path / name).write_bytes(model.with_name(name).read_bytes())
    with pytest.raises(InputError, match=r"novelty\.npz cannot be loaded"):
        Predictor.read(tmp_path / "finetuned.keras")
