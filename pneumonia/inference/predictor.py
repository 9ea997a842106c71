"""Answer for images with one model, wherever it was kept: command, API, page and MLflow all go through here."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pneumonia.core.dataset import Pixels
from pneumonia.core.errors import InputError
from pneumonia.images.decode import read_image, stretch
from pneumonia.images.refusal import ImageRefusedError
from pneumonia.inference.heatmaps import Maps, enlarge, locate
from pneumonia.inference.novelty import Novelty, expose_channels, join_features
from pneumonia.inference.operating_point import OperatingPoint
from pneumonia.inference.scores import BATCH_SIZE
from pneumonia.models.classifier import load_model


@dataclass(frozen=True)
class Answer:
    """What is said of one image.

    Attributes:
        probability: calibrated, of pneumonia, 0 to 1.
        decision: name of the class.
        novelty: how far it is from the training images, in units of the distance from which an image is novel.
        novel: it does not look like a frontal chest radiograph, and the rest means nothing.
    """

    probability: float
    decision: str
    novelty: float
    novel: bool


class Predictor:
    """A model with all it takes to answer: loaded once, to be called from several threads.

    Attributes:
        name: of the registered version, or path of the model.
        point: its operating point.
        card: its model card in Markdown.
    """

    def __init__(self, model: keras.Model, point: OperatingPoint, novelty: Novelty, name: str = "", card: str = ""):
        self.model, self.point, self.novelty, self.name, self.card = model, point, novelty, name, card
        images = tf.TensorSpec((None, point.image_size, point.image_size, 1), tf.float32)  # of any number: traced once
        both, evidence = expose_channels(model), locate(model, "grad_cam")
        self._run: Callable[..., Any] = tf.function(lambda batch: both(batch, training=False), input_signature=[images])
        self._locate: Callable[..., Any] = tf.function(lambda batch: evidence(batch), input_signature=[images])

    @classmethod
    def read(cls, model: Path, name: str = "") -> Self:
        """Read a .keras file with operating_point.json and novelty.npz beside it, and the card if there is one.

        Raises:
            InputError: one of them is missing or damaged.
        """
        card = model.with_name("model_card.md")
        if not model.is_file():
            raise InputError(f"{model} is no file.", expected="a .keras file", remedy="dvc repro, or name another")
        point = OperatingPoint.read(model.with_name("operating_point.json"))
        novelty = Novelty.read(model.with_name("novelty.npz"))
        found = cls(load_model(model), point, novelty, name or str(model), card.read_text() if card.exists() else "")
        # Traced now, not by the first caller.
        found.predict(np.zeros((1, point.image_size, point.image_size), np.uint8))
        return found

    @property
    def notice(self) -> str:
        """Return what has to be said with every answer; empty for nothing."""
        return self.point.notice

    def read_image(self, content: bytes) -> Pixels:
        """Decode a file as training did, see `images.read_image`."""
        return read_image(content, self.point.image_size)

    def read_pixels(self, grey: npt.NDArray[Any]) -> Pixels:
        """Stretch grey values 0 to 255, integers (height, width), as those of a file.

        Raises:
            ImageRefusedError: they are something else.
        """
        if grey.ndim != 2 or not grey.size or grey.dtype.kind not in "iu" or grey.min() < 0 or grey.max() > 255:
            raise ImageRefusedError("not grey values 0 to 255 of shape (height, width)")
        return stretch(grey.astype(np.uint8), self.point.image_size)

    def predict(self, images: Pixels) -> list[Answer]:
        """Answer for images, grey values 0 to 255, uint8 (n, side, side)."""
        said = self._forward(images)
        log_odds = said[:, :1]
        if self.point.flip:
            log_odds = np.hstack([log_odds, self._forward(images[..., ::-1])[:, :1]])
        probabilities = self.point.find_probabilities(log_odds.astype(np.float64).mean(axis=1))
        scores = self.novelty.score(join_features(said[:, 1:], images))
        return [
            Answer(p, self.point.classes[p >= self.point.threshold], score / self.novelty.threshold, novel)
            for p, score, novel in zip(
                probabilities.tolist(), scores.tolist(), self.novelty.is_novel(scores).tolist(), strict=True
            )
        ]

    def _forward(self, images: Pixels) -> npt.NDArray[np.float32]:
        return self._run(tf.constant(images[..., None], tf.float32)).numpy()

    def explain(self, images: Pixels) -> Maps:
        """Return the heat map of each image, see `heatmaps.explain`."""
        return enlarge(self._locate(tf.constant(images[..., None], tf.float32)).numpy(), self.point.image_size)

    def stream(self, contents: Iterable[bytes]) -> Iterator[tuple[Pixels | None, Answer | ImageRefusedError]]:
        """Yield image and answer, or why there is none, of each file in order; more are read while the model runs."""
        with ThreadPoolExecutor() as pool:
            rest = iter(contents)

            def read_ahead() -> list[Future[Pixels | ImageRefusedError]]:
                return [pool.submit(self.try_read, content) for content in islice(rest, BATCH_SIZE)]

            following = read_ahead()
            while current := following:
                following = read_ahead()
                read = [future.result() for future in current]
                images = [image for image in read if isinstance(image, np.ndarray)]
                answers = iter(self.predict(np.stack(images)) if images else [])
                for image in read:
                    yield (image, next(answers)) if isinstance(image, np.ndarray) else (None, image)

    def try_read(self, content: bytes) -> Pixels | ImageRefusedError:
        """Return the image, or why it is refused."""
        try:
            return self.read_image(content)
        except ImageRefusedError as error:
            return error
