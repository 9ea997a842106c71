"""Dynamic batching: images of concurrent requests pass through one model together, and a new champion takes over."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
from starlette.exceptions import HTTPException

from pneumonia.core.dataset import Pixels
from pneumonia.images.refusal import ImageRefusedError, LimitExceededError
from pneumonia.images.workers import Decoders
from pneumonia.inference.heatmaps import Maps
from pneumonia.inference.predictor import Answer, Predictor
from pneumonia.registry.load import find_current, is_file, load_predictor

LOG = logging.getLogger("pneumonia")
T = TypeVar("T")


@dataclass(frozen=True)
class Reply:
    """Answers to the files of one request, all from the same model.

    Attributes:
        predictor: the model that answered.
        images: uint8 (side, side) as the model sees them; None for a refused file.
        answers: an answer per file, or the reason for its refusal.
        heatmaps: float32 (side, side), 0 to 1; None unless requested.
    """

    predictor: Predictor
    images: list[Pixels | None]
    answers: list[Answer | ImageRefusedError]
    heatmaps: list[Maps | None]


# Workers; for a file the seconds, MB on top of what a worker starts with, and pixels. Most files take milliseconds;
# those that may take long wait for each other, and nobody waits for them.
LANES = (2, 1, 96, 4_000_000), (1, 10, 336, float("inf"))
MOST_SLOW = 16  # files that wait in the last lane; more requests would take the places of all others
MOST_SCORED = 8  # images of a forward pass; 16 take 140 MB more and no less time each, measured on 2 cores
TOGETHER = 2  # files of a request that wait for a worker; a request of many would hold up the others


class _Lane:
    """Decoders and the threads that wait for them."""

    def __init__(self, workers: int, *limits: float) -> None:
        self.decoders, self.threads = Decoders(workers, *limits), ThreadPoolExecutor(workers, "decode")
        self.waiting = 0

    def close(self) -> None:
        self.threads.shutdown(wait=False, cancel_futures=True)
        self.decoders.close()
        self.threads.shutdown()


class _Waiting(NamedTuple):
    """An image in the queue, the model it was decoded for, and where its answer goes."""

    predictor: Predictor
    image: Pixels
    answer: asyncio.Future[Answer]


class Batcher:
    """A model behind a queue. Enter `running` before `predict`, and stay on one event loop.

    Args:
        name: of the model, see `registry.load.load_predictor`.
        reload_seconds: between two checks whether `name` stands for another version. A .keras file is loaded once:
            the files beside it are written at other times, so that no check can tell when they belong together.

    Attributes:
        predictor: the current model; None until it is loaded.
        reloads: how often the model was replaced since the start.
        batches: forward passes since the start.
    """

    def __init__(self, name: str = "champion", reload_seconds: float = 30) -> None:
        self.name, self.reload_seconds = name, reload_seconds
        self.predictor: Predictor | None = None
        self.reloads = self.batches = 0
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()
        # The model gets a single thread since it uses all cores itself; looking for another has its own.
        self._model, self._reload = ThreadPoolExecutor(1, "model"), ThreadPoolExecutor(1, "reload")
        self._lanes: list[_Lane] = []

    @property
    def replaced(self) -> int:
        """Return how many decoders exceeded their limits and were replaced."""
        return sum(lane.decoders.replaced for lane in self._lanes)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Load the model unless there is one already, and answer requests until the block ends.

        Raises:
            InputError: the model cannot be found or loaded.
        """
        self.predictor = self.predictor or await self._run_in(self._model, load_predictor, self.name)
        work = [self._serve_queue] if is_file(self.name) else [self._serve_queue, self._follow]
        self._lanes = [_Lane(*limits) for limits in LANES]
        tasks = [asyncio.create_task(start()) for start in work]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for lane in self._lanes:
                lane.close()
            self._model.shutdown()
            self._reload.shutdown()

    async def predict(self, contents: Sequence[bytes], explain: bool = False) -> Reply:
        """Decode and score the files of one request.

        Args:
            contents: bytes of image files; anything else is refused in its place.
            explain: add a heat map per image.

        Raises:
            HTTPException: 503, too many images that take long are waiting.
        """
        predictor = self.predictor
        assert predictor, "Batcher.predict was called outside Batcher.running"
        turn = asyncio.Semaphore(TOGETHER)
        decoded = await asyncio.gather(*(self._decode(each, predictor.point.image_size, turn) for each in contents))
        images = [image for image in decoded if isinstance(image, np.ndarray)]
        answers = iter(await asyncio.gather(*(self._enqueue(predictor, image) for image in images)))
        heatmaps = list[Maps]()
        for start in range(0, len(images) if explain else 0, MOST_SCORED):
            some = np.stack(images[start : start + MOST_SCORED])
            heatmaps.extend(await self._run_in(self._model, predictor.explain, some))
        maps = iter(heatmaps)
        return Reply(
            predictor,
            [image if isinstance(image, np.ndarray) else None for image in decoded],
            [next(answers) if isinstance(image, np.ndarray) else image for image in decoded],
            [next(maps, None) if isinstance(image, np.ndarray) else None for image in decoded],
        )

    async def _decode(self, content: bytes, size: int, turn: asyncio.Semaphore) -> Pixels | ImageRefusedError:
        """Decode a file in the first lane whose limits it keeps, or return why none of them can."""
        refused = ImageRefusedError()
        async with turn:
            for lane in self._lanes:
                if lane is self._lanes[-1] and lane.waiting >= MOST_SLOW:
                    raise HTTPException(503, "Too many large images wait already; try again.", {"Retry-After": "5"})
                lane.waiting += 1
                try:
                    return await self._run_in(lane.threads, lane.decoders.read, content, size)
                except LimitExceededError as error:
                    refused = error.with_traceback(None)  # which would hold the file
                except ImageRefusedError as error:
                    return error.with_traceback(None)
                finally:
                    lane.waiting -= 1
        return refused

    def _enqueue(self, predictor: Predictor, image: Pixels) -> asyncio.Future[Answer]:
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(_Waiting(predictor, image, answer))
        return answer

    async def _serve_queue(self) -> None:
        """Form each batch from what arrived while the model was busy with the one before."""
        while True:
            batch = [await self._queue.get()]
            while len(batch) < MOST_SCORED and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            # Some callers may have given up; after a reload the queue holds images for both models.
            batch = [waiting for waiting in batch if not waiting.answer.done()]
            for predictor in {id(waiting.predictor): waiting.predictor for waiting in batch}.values():
                await self._score(predictor, [waiting for waiting in batch if waiting.predictor is predictor])

    async def _score(self, predictor: Predictor, batch: Sequence[_Waiting]) -> None:
        self.batches += 1
        results: Sequence[Answer | Exception]
        try:
            results = await self._run_in(self._model, predictor.predict, np.stack([waiting.image for waiting in batch]))
        except Exception as error:  # goes to the callers of this batch; the next batch is served
            results = [error] * len(batch)
        for waiting, result in zip(batch, results, strict=True):
            if waiting.answer.done():
                continue
            if isinstance(result, Exception):
                waiting.answer.set_exception(result)
            else:
                waiting.answer.set_result(result)

    async def _follow(self) -> None:
        """Switch to a new champion; keep the current model if the new one cannot be loaded."""
        while True:
            await asyncio.sleep(self.reload_seconds)
            try:
                current = await self._run_in(self._reload, find_current, self.name)
                if self.predictor and current != self.predictor.name:
                    self.predictor = await self._run_in(self._reload, load_predictor, self.name)
                    self.reloads += 1
                    LOG.info("switched to version %s", current)
            except Exception as error:
                LOG.error("keeping the current model: %s", error)

    async def _run_in(self, pool: ThreadPoolExecutor, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, work, *arguments)
