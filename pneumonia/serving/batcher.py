"""Answer many callers with one model: images of all of them go through it together, and a new champion takes over."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from pneumonia.core.dataset import Pixels
from pneumonia.images.refusal import ImageRefusedError
from pneumonia.inference.heatmaps import Maps
from pneumonia.inference.predictor import Answer, Predictor
from pneumonia.inference.scores import BATCH_SIZE
from pneumonia.registry.load import find_current, load_predictor

LOG = logging.getLogger("pneumonia")
T = TypeVar("T")


@dataclass(frozen=True)
class Reply:
    """What is said of the files of one request, all by the same model.

    Attributes:
        images: as the model saw them; None for a file that was refused.
        answers: or why there is none.
        heatmaps: of each image; None where none was asked for.
    """

    predictor: Predictor
    images: list[Pixels | None]
    answers: list[Answer | ImageRefusedError]
    heatmaps: list[Maps | None]


class Service:
    """A model behind a queue. Use it within `running`, and from one event loop."""

    def __init__(self, name: str = "champion", reload_seconds: float = 30):
        """Take the model `name`, see `champion.find_current`, and look every `reload_seconds` if it is another one."""
        self.name, self.reload_seconds = name, reload_seconds
        self.predictor: Predictor | None = None
        self.reloads = self.batches = 0  # since the start: changes of the model, passes of images through one
        self._queue: asyncio.Queue[tuple[Predictor, Pixels, asyncio.Future[Answer]]] = asyncio.Queue()
        # One thread for the model, which uses all cores itself; decoding has its own.
        self._model, self._readers = ThreadPoolExecutor(1, "model"), ThreadPoolExecutor(4, "read")

    @asynccontextmanager
    async def running(self):
        """Load the model, unless there is one already, and answer until the block ends.

        Raises:
            InputError: there is no such model.
        """
        self.predictor = self.predictor or await self._in(self._model, load_predictor, self.name)
        tasks = [asyncio.create_task(work()) for work in (self._answer_queue, self._follow)]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._model.shutdown()
            self._readers.shutdown()

    async def answer(self, contents: Sequence[bytes], explain: bool = False) -> Reply:
        """Answer for the files of one request, with heat maps if asked to."""
        predictor = self.predictor
        assert predictor, "the service is not running"
        read = await asyncio.gather(*(self._in(self._readers, predictor.try_read, content) for content in contents))
        images = [image if isinstance(image, np.ndarray) else None for image in read]
        said = await asyncio.gather(*(self._ask(predictor, image) for image in images if image is not None))
        answers = iter(said)
        seen = [image for image in images if image is not None]
        maps = iter(await self._in(self._model, predictor.explain, np.stack(seen)) if explain and seen else [])
        return Reply(
            predictor, images, [next(answers) if isinstance(image, np.ndarray) else image for image in read],
            [next(maps, None) if image is not None else None for image in images],
        )  # fmt: skip

    def _ask(self, predictor: Predictor, image: Pixels) -> asyncio.Future[Answer]:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((predictor, image, future))
        return future

    async def _answer_queue(self) -> None:
        """Answer for all that came while the model was busy with those before."""
        while True:
            waiting = [await self._queue.get()]
            while len(waiting) < BATCH_SIZE and not self._queue.empty():
                waiting.append(self._queue.get_nowait())
            # A caller who gave up needs no answer; after a change of the champion there may be images for both.
            waiting = [item for item in waiting if not item[2].done()]
            for predictor in {id(item[0]): item[0] for item in waiting}.values():
                images, futures = zip(*((image, f) for p, image, f in waiting if p is predictor), strict=True)
                self.batches += 1
                try:
                    answers = await self._in(self._model, predictor.predict, np.stack(images))
                    results: list[tuple[Callable[..., None], Any]] = [
                        (f.set_result, a) for f, a in zip(futures, answers, strict=True)
                    ]
                except Exception as error:  # of the model; the callers hear of it, the others go on
                    results = [(future.set_exception, error) for future in futures]
                for future, (tell, what) in zip(futures, results, strict=True):
                    if not future.done():
                        tell(what)

    async def _follow(self) -> None:
        """Take over a new champion; one that cannot be loaded leaves the present one in place."""
        while True:
            await asyncio.sleep(self.reload_seconds)
            try:
                current = await self._in(self._readers, find_current, self.name)
                if self.predictor and current != self.predictor.name:
                    self.predictor = await self._in(self._readers, load_predictor, self.name)
                    self.reloads += 1
                    LOG.info("version %s answers from now on", current)
            except Exception as error:
                LOG.error("the model stays as it is: %s", error)

    async def _in(self, pool: ThreadPoolExecutor, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, work, *arguments)
