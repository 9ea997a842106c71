"""One predictor says of an image what the pipeline says, whatever way the image comes and whoever comes with it."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from projects import run

from pneumonia.core.errors import InputError
from pneumonia.images.decode import read_image
from pneumonia.images.refusal import ImageRefusedError
from pneumonia.inference.heatmaps import explain, overlay
from pneumonia.inference.operating_point import OperatingPoint
from pneumonia.inference.predictor import Answer, Predictor
from pneumonia.inference.scores import predict_probabilities
from pneumonia.models.classifier import load_model


@pytest.fixture(scope="module")
def model(once: Path) -> Path:
    return once / "models" / "finetuned.keras"


@pytest.fixture(scope="module")
def predictor(model: Path) -> Predictor:
    return Predictor.read(model)


@pytest.fixture(scope="module")
def contents(once: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((once / "data" / "raw").rglob("*.jpeg"))[:20]]


@pytest.fixture(scope="module")
def images(contents: list[bytes], predictor: Predictor) -> np.ndarray:
    return np.stack([predictor.read_image(content) for content in contents])


def probabilities(answers: list[Answer]) -> list[float]:
    return [answer.probability for answer in answers]


def test_it_says_what_the_pipeline_says(predictor: Predictor, model: Path, images: np.ndarray) -> None:
    point = OperatingPoint.read(model.with_name("operating_point.json"))
    expected = predict_probabilities(load_model(model), images, point)
    np.testing.assert_allclose(probabilities(predictor.predict(images)), expected, rtol=0, atol=1e-6)


def test_a_mirrored_image_says_the_same_where_flips_are_averaged(predictor: Predictor, images: np.ndarray) -> None:
    point = predictor.point.model_copy(update={"flip": True})
    both = Predictor(predictor.model, point, predictor.novelty)
    said, mirrored = both.predict(images), both.predict(images[..., ::-1])
    np.testing.assert_allclose(probabilities(said), probabilities(mirrored), rtol=0, atol=1e-6)
    assert np.abs(np.subtract(probabilities(said), probabilities(predictor.predict(images)))).max() > 1e-4


def test_a_image_alone_says_what_it_says_among_others(predictor: Predictor, images: np.ndarray) -> None:
    alone = [predictor.predict(image[None])[0] for image in images]
    among = predictor.predict(images)
    np.testing.assert_allclose(probabilities(alone), probabilities(among), rtol=0, atol=1e-6)
    assert [answer.decision for answer in alone] == [answer.decision for answer in among]


def test_the_decision_changes_at_the_threshold(predictor: Predictor, images: np.ndarray) -> None:
    said = probabilities(predictor.predict(images))
    point = predictor.point.model_copy(update={"threshold": sorted(said)[10]})
    answers = Predictor(predictor.model, point, predictor.novelty).predict(images)
    assert sum(answer.decision == "PNEUMONIA" for answer in answers) == 10


def test_noise_is_called_novel_and_images_of_training_are_not(predictor: Predictor, images: np.ndarray) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (5, *images.shape[1:]), dtype=np.uint8)
    assert all(answer.novel and answer.novelty > 1 for answer in predictor.predict(noise))
    assert sum(answer.novel for answer in predictor.predict(images)) <= 2


def test_a_stream_answers_in_order_and_sets_aside_what_is_no_image(
    predictor: Predictor, contents: list[bytes], images: np.ndarray
) -> None:
    given = [b"no image", *contents, b"", *contents * 4]
    said = list(predictor.stream(given))
    assert [number for number, (image, _) in enumerate(said) if image is None] == [0, 21]
    assert all(isinstance(said[number][1], ImageRefusedError) for number in (0, 21))
    answers = [answer for _, answer in said if isinstance(answer, Answer)]
    np.testing.assert_allclose(probabilities(answers), probabilities(predictor.predict(images)) * 5, rtol=0, atol=1e-6)


def test_grey_values_say_what_their_file_says(predictor: Predictor) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (90, 70), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(grey).save(file, "png")
    np.testing.assert_array_equal(predictor.read_pixels(grey), predictor.read_image(file.getvalue()))
    np.testing.assert_array_equal(predictor.read_pixels(grey), read_image(file.getvalue(), 32))


@pytest.mark.parametrize(
    "grey",
    [np.zeros((3, 3, 3), int), np.full((3, 3), 0.5), np.full((3, 3), 256), np.full((3, 3), -1), np.zeros((0, 3))],
)
def test_what_is_no_grey_picture_is_refused(predictor: Predictor, grey: np.ndarray) -> None:
    with pytest.raises(ImageRefusedError, match="not grey values"):
        predictor.read_pixels(grey)


def test_its_heat_map_is_that_of_the_evaluation(predictor: Predictor, images: np.ndarray) -> None:
    np.testing.assert_allclose(predictor.explain(images), explain(predictor.model, images, "grad_cam"), atol=1e-5)


def test_a_heat_map_covers_a_image_by_its_heat_and_opacity(images: np.ndarray) -> None:
    cold, hot = np.zeros((32, 32), np.float32), np.ones((32, 32), np.float32)
    grey = np.repeat(images[0][..., None], 3, axis=-1)
    np.testing.assert_array_equal(overlay(images[0], cold), grey)
    np.testing.assert_array_equal(overlay(images[0], hot, opacity=0), grey)
    assert (overlay(images[0], hot, opacity=1) == overlay(images[1], hot, opacity=1)).all()


def test_a_model_without_what_belongs_to_it_is_an_error_in_three_parts(model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.keras is no file(.|\n)*Expected: (.|\n)*Remedy: "):
        Predictor.read(tmp_path / "nowhere.keras")
    for name in ("finetuned.keras", "operating_point.json"):
        (tmp_path / name).write_bytes(model.with_name(name).read_bytes())
    with pytest.raises(InputError, match=r"novelty\.npz cannot be loaded"):
        Predictor.read(tmp_path / "finetuned.keras")


def test_a_registered_version_is_verified_before_it_answers(finished: Path) -> None:
    image = next((finished / "data" / "raw").rglob("*.jpeg"))
    command = ["python", "-m", "pneumonia", "predict", str(image)]
    assert "Model 1, threshold" in run(*command, cwd=finished).stdout
    [stored] = (finished / "mlruns").rglob("artifacts/finetuned.keras")
    content = stored.read_bytes()
    stored.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    refused = run(*command, cwd=finished, check=False)
    assert refused.returncode == 1 and "artifacts/finetuned.keras changed" in refused.stderr
    assert "Traceback" not in refused.stderr
