"""Predict with one model wherever it is kept: command, API, page and MLflow all use this class."""

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
from pneumonia.images.decode import read_file, read_image, stretch
from pneumonia.images.refusal import ImageRefusedError
from pneumonia.inference.heatmaps import Maps, enlarge, locate
from pneumonia.inference.novelty import Novelty, expose_channels, join_features
from pneumonia.inference.operating_point import OperatingPoint
from pneumonia.inference.scores import BATCH_SIZE, score_with
from pneumonia.models.classifier import load_model


@dataclass(frozen=True)
class Answer:
    """The prediction for one image.

    Attributes:
        probability: calibrated, of pneumonia, 0 to 1.
        decision: name of the class at the model's threshold.
        novelty: distance from the training images, in units of the distance beyond which an image is novel; above 0.
        novel: the image does not look like the training images, so probability and decision mean nothing.
    """

    probability: float
    decision: str
    novelty: float
    novel: bool


class Predictor:
    """A model with everything that prediction needs: loaded once, safe to call from several threads.

    Attributes:
        model: the classifier.
        point: its operating point.
        novelty: its detector of novel images.
        name: of the registered version, or path of the model.
        card: its model card in Markdown; empty without one.
    """

    def __init__(self, model: keras.Model, point: OperatingPoint, novelty: Novelty, name: str = "", card: str = ""):
        """Trace the forward pass once, for any number of images."""
        self.model, self.point, self.novelty, self.name, self.card = model, point, novelty, name, card
        images = tf.TensorSpec((None, point.image_size, point.image_size, 1), tf.float32)
        both, evidence = expose_channels(model), locate(model, "grad_cam")
        self._run: Callable[..., Any] = tf.function(lambda batch: both(batch, training=False), input_signature=[images])
        self._locate: Callable[..., Any] = tf.function(lambda batch: evidence(batch), input_signature=[images])

    @classmethod
    def read(cls, model: Path, name: str = "") -> Self:
        """Load a .keras file with the operating_point.json and novelty.npz beside it, and the card if there is one.

        Raises:
            InputError: one of them is missing, damaged, or not the one that was evaluated.
        """
        card = model.with_name("model_card.md")
        if not model.is_file():
            raise InputError(f"{model} is no file.", expected="a .keras file", remedy="dvc repro, or name another")
        point = OperatingPoint.read(model.with_name("operating_point.json"))
        point.ensure_belongs(model, model.with_name("novelty.npz"))
        novelty = Novelty.read(model.with_name("novelty.npz"))
        found = cls(load_model(model), point, novelty, name or str(model), card.read_text() if card.exists() else "")
        # Traced now instead of in the first request.
        found.predict(np.zeros((1, point.image_size, point.image_size), np.uint8))
        return found

    @property
    def notice(self) -> str:
        """Return the notice that goes with every answer; empty for none."""
        return self.point.notice

    def read_image(self, content: bytes) -> Pixels:
        """Decode a file as training does, see `images.decode.read_image`.

        Returns:
            Grey values 0 to 255, uint8 (side, side).

        Raises:
            ImageRefusedError: it is no image that can be used.
        """
        return read_image(content, self.point.image_size)

    def read_pixels(self, grey: npt.NDArray[Any]) -> Pixels:
        """Stretch grey values 0 to 255, integers (height, width), to the model's input as if read from a file.

        Raises:
            ImageRefusedError: they are something else.
        """
        if grey.ndim != 2 or not grey.size or grey.dtype.kind not in "iu" or grey.min() < 0 or grey.max() > 255:
            raise ImageRefusedError("not grey values 0 to 255 of shape (height, width)")
        return stretch(grey.astype(np.uint8), self.point.image_size)

    def predict(self, images: Pixels) -> list[Answer]:
        """Return the answer for each image; grey values 0 to 255, uint8 (n, side, side), side as the model expects."""
        log_odds, means = score_with(self._forward, images, self.point.flip)
        probabilities = self.point.calibrate(log_odds)
        scores = self.novelty.score(join_features(means, images))
        return [
            Answer(p, self.point.classes[p >= self.point.threshold], score / self.novelty.threshold, novel)
            for p, score, novel in zip(
                probabilities.tolist(), scores.tolist(), self.novelty.is_novel(scores).tolist(), strict=True
            )
        ]

    def _forward(self, images: Pixels) -> npt.NDArray[np.float32]:
        return self._run(tf.constant(images[..., None], tf.float32)).numpy()

    def explain(self, images: Pixels) -> Maps:
        """Return the Grad-CAM of each image, 0 to 1, float32 (n, side, side), see `heatmaps.explain`."""
        return enlarge(self._locate(tf.constant(images[..., None], tf.float32)).numpy(), self.point.image_size)

    def stream(self, files: Iterable[Path | bytes]) -> Iterator[tuple[Pixels | None, Answer | ImageRefusedError]]:
        """Yield image and answer, or None and why it is refused, of each file in order.

        Files are read and decoded in threads while the model runs.
        """
        pool, rest = ThreadPoolExecutor(), iter(files)

        def read_ahead() -> list[Future[Pixels | ImageRefusedError]]:
            return [pool.submit(self.try_read, file) for file in islice(rest, BATCH_SIZE)]

        try:
            following = read_ahead()
            while current := following:
                following = read_ahead()
                read = [future.result() for future in current]
                images = [image for image in read if isinstance(image, np.ndarray)]
                answers = iter(self.predict(np.stack(images)) if images else [])
                for image in read:
                    yield (image, next(answers)) if isinstance(image, np.ndarray) else (None, image)
        finally:
            pool.shutdown(cancel_futures=True)  # who stops early does not wait for files that nobody will ask for

    def try_read(self, file: Path | bytes) -> Pixels | ImageRefusedError:
        """Return the image of a file, given by its path or content, or why it is refused."""
        try:
            return self.read_image(read_file(file) if isinstance(file, Path) else file)
        except ImageRefusedError as error:
            return error
