"""Decode files in processes of their own, with limits of time and memory: a decoder that exceeds them ends alone."""

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from pneumonia.core.dataset import Pixels
from pneumonia.images import refusal
from pneumonia.images.decode import ImageInfo, describe_image, digest_pixels, read_image
from pneumonia.images.refusal import ImageRefusedError, LimitExceededError

ROOT = Path(__file__).parents[2]
STATM = Path("/proc/self/statm")  # Linux


class Decoders:
    """Processes that decode, safe to use from several threads. Close it in the end.

    A process ends itself by an alarm, which no decoder can put off, and with the process that started it.

    Args:
        workers: number of processes.
        seconds: that a file may take.
        megabytes: of memory that a process may take on top of what it starts with; unlimited where there is no /proc.
        pixels: work that a process may begin, see `refusal.check_work`.

    Attributes:
        replaced: processes that ended and were replaced.
    """

    def __init__(
        self, workers: int, seconds: float = 10, megabytes: float = 1024, pixels: float = float("inf")
    ) -> None:
        self.seconds, self.megabytes = seconds, megabytes
        self.replaced, self._closed = 0, False
        self._workers = [_Worker(seconds, megabytes, pixels) for _ in range(workers)]
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)

    def close(self) -> None:
        """End the processes, busy ones too."""
        self._closed = True
        for worker in self._workers:
            worker.end()

    def read(self, content: bytes, size: int) -> Pixels:
        """Decode a file as `decode.read_image` does.

        Raises:
            LimitExceededError: the file takes too much time, memory or work.
            ImageRefusedError: as in `decode.read_image`.
        """
        return self._ask(read_image, content, size)

    def describe(self, content: bytes) -> ImageInfo:
        """Describe a file as `decode.describe_image` does; errors as in `read`."""
        return self._ask(describe_image, content)

    def digest(self, content: bytes) -> str:
        """Digest the pixels of a file as `decode.digest_pixels` does; errors as in `read`."""
        return self._ask(digest_pixels, content)

    def _ask(self, function: Callable[..., Any], content: bytes, *rest: Any) -> Any:
        worker = self._idle.get()
        try:
            answer = worker.ask(function, content, *rest)
        except (EOFError, OSError):
            code, self.replaced = worker.end(grace=1), self.replaced + 1
            if not self._closed:
                worker.start()
            raise LimitExceededError(self._explain(code)) from None
        finally:
            self._idle.put(worker)
        if isinstance(answer, MemoryError):
            raise LimitExceededError(self._explain(errno.ENOMEM))
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _explain(self, code: int) -> str:
        if code == -signal.SIGALRM:
            return f"takes more than {self.seconds:g} seconds to decode"
        if code == errno.ENOMEM:
            return f"takes more than {self.megabytes} MB of memory to decode"
        return "ends the process that decodes it"


class _Worker:
    """A process and the pipe to it."""

    def __init__(self, *limits: float) -> None:
        self.limits = limits
        self.start()

    def start(self) -> None:
        self.pipe, other = Pipe()
        # Not `multiprocessing`: it would import the main module, and with it TensorFlow, into every process.
        command = [sys.executable, "-P", "-m", __name__, *map(str, (other.fileno(), *self.limits))]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(command, pass_fds=[other.fileno()], env=environment, stdin=subprocess.DEVNULL)
        other.close()

    def ask(self, function: Callable[..., Any], content: bytes, *rest: Any) -> Any:
        self.pipe.send((function, *rest))
        self.pipe.send_bytes(content)  # by itself, as to pickle it would copy it here and there
        return self.pipe.recv()

    def end(self, grace: float = 0) -> int:
        """End the process, if need be after some seconds in which it may end by itself, and return its exit status."""
        self.pipe.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(grace)
        self.process.kill()  # does nothing to one that has ended
        return self.process.wait()


def _work(pipe: Connection, seconds: float, megabytes: int, pixels: float) -> None:
    refusal.max_work = pixels
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches every process; this one ends with its parent
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    import pneumonia.images.dicom  # noqa: F401  # now, and not within a file's time and memory

    if STATM.exists():
        limit = int(STATM.read_text().split()[0]) * resource.getpagesize() + megabytes * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    while True:
        try:
            function, *rest = pipe.recv()
            content = pipe.recv_bytes()
        except EOFError:  # the parent has ended
            return
        except MemoryError:  # for the file itself; the rest of it is still in the pipe
            sys.exit(errno.ENOMEM)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        answer = _try(function, content, *rest)
        del content  # an idle process holds no file
        signal.setitimer(signal.ITIMER_REAL, 0)
        pipe.send(answer)


def _try(function: Any, *arguments: Any) -> Any:
    """Return a result, or why there is none: a file that is refused for want of memory is a MemoryError."""
    try:
        return function(*arguments)
    except (ImageRefusedError, MemoryError) as error:
        reason: BaseException | None = error
        while reason and not isinstance(reason, MemoryError):
            reason = reason.__context__
        return MemoryError() if reason else type(error)(str(error))


if __name__ == "__main__":
    _work(Connection(int(sys.argv[1])), float(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
