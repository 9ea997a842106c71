"""Measure how fast a registered model is served: `python -m benchmarks.serving RESULT.json` in a project's folder."""

import argparse
import asyncio
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
from PIL import Image

from benchmarks.servers import (
    CLIENTS,
    HOST,
    ask_together,
    encode_table,
    encode_upload,
    find_port,
    serving,
    write_request,
)

MODEL = "challenger"  # the latest model; with few images there may be no champion
WARM_UP = 3.0  # seconds of load before the measurement
BATCH_SIZE = 64  # as in `inference.scores`
SIDE = 224  # of the images, in pixels
SERVE = (sys.executable, "-m", "pneumonia", "serve")
MLFLOW = (sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/pneumonia-classifier@{MODEL}",
          "--env-manager", "local", "--host", HOST, "--port")  # fmt: skip

Clocks = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Way:
    """Performance of one way to score images.

    Attributes:
        what: the way.
        rate: images per second.
        others: share of the processors that other processes used meanwhile, 0 to 1.
        latency: seconds, median and 95th percentile.
        errors: requests that failed or returned another status than 200.
        memory: resident memory of the server in GB, ten seconds after the start and at the end.
        alone: images per second of the model alone, the mean of before and after.
    """

    what: str
    rate: float
    others: float
    latency: Sequence[float] = ()
    errors: int | None = None
    memory: Sequence[float] = ()
    alone: float = 0.0


def measure_ways(images: Path, seconds: float) -> Iterator[Way]:
    """Measure the command, the service and MLflow's server, one after the other.

    Args:
        images: folder of JPEG files.
        seconds: of load for each server.
    """
    alone = measure_model()
    for measure in (measure_command, measure_service, measure_mlflow):
        ways = measure(sorted(images.iterdir()), seconds)
        # On a shared machine only measurements next to each other are comparable.
        before, alone = alone, measure_model()
        yield from (replace(way, alone=(before + alone) / 2) for way in ways)


def measure_command(images: Sequence[Path], seconds: float) -> list[Way]:
    """Measure `python -m pneumonia predict` on a folder, with and without its start: the time for one image."""
    before = read_clocks()
    first, whole = (time_predict(path) for path in (images[0], images[0].parent))
    others = find_others(before, read_clocks())
    return [
        Way("`python -m pneumonia predict`, once started", (len(images) - 1) / (whole - first), others),
        Way(f"`python -m pneumonia predict` of {len(images):,} images, start included", len(images) / whole, others),
    ]


def measure_service(images: Sequence[Path], seconds: float) -> list[Way]:
    """Measure the project's own service."""
    port = find_port()
    posted = [write_request("/v1/predict", *encode_upload(image.read_bytes())) for image in images]
    with serving(SERVE, f"http://{HOST}:{port}/readyz", PNEUMONIA_MODEL=MODEL, PNEUMONIA_PORT=str(port)) as server:
        return [measure_server(f"`python -m pneumonia serve`, {CLIENTS} clients", server, port, posted, seconds)]


def measure_mlflow(images: Sequence[Path], seconds: float) -> list[Way]:
    """Measure MLflow's server of the same version."""
    port, store = find_port(), f"sqlite:///{Path('mlruns/mlflow.db').absolute()}"
    posted = [write_request("/invocations", *encode_table(image.read_bytes())) for image in images]
    with serving([*MLFLOW, str(port)], f"http://{HOST}:{port}/ping", MLFLOW_TRACKING_URI=store) as server:
        return [measure_server(f"`mlflow models serve`, {CLIENTS} clients", server, port, posted, seconds)]


def measure_model() -> float:
    """Return images per second of the forward pass in a tight loop, in a separate process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure_forward).result()


def _measure_forward() -> float:
    from benchmarks.floor import measure_forward
    from pneumonia.registry.load import load_predictor

    return measure_forward(load_predictor(MODEL).model, BATCH_SIZE)


def time_predict(images: Path) -> float:
    """Return the seconds of the command for an image or a folder."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "pneumonia", "predict", "--csv", "--model", MODEL, str(images)]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def measure_server(what: str, server: psutil.Process, port: int, requests: list[bytes], seconds: float) -> Way:
    """Load a server from all clients at once, with requests that were built beforehand."""

    async def measure() -> tuple[list[float | None], float, list[float]]:
        await ask_together(port, requests, WARM_UP)
        before, asking = read_clocks(server), asyncio.create_task(ask_together(port, requests, seconds))
        await asyncio.sleep(min(10.0, seconds / 2))
        early = measure_memory(server)
        return await asking, find_others(before, read_clocks(server)), [early, measure_memory(server)]

    took, others, memory = asyncio.run(measure())
    answered = [one for one in took if one is not None]
    latency = np.quantile(answered or [np.nan], [0.5, 0.95]).tolist()
    return Way(what, len(answered) / seconds, others, latency, len(took) - len(answered), memory)


def list_family(process: psutil.Process) -> list[psutil.Process]:
    """Return a process and its descendants."""
    return [process, *process.children(recursive=True)]


def measure_memory(server: psutil.Process) -> float:
    """Return the resident memory of a server and its descendants in GB."""
    return sum(process.memory_info().rss for process in list_family(server)) / 1e9


def read_clocks(server: psutil.Process | None = None) -> Clocks:
    """Return processor seconds: passed, busy, and used by this process and a server."""
    spent = psutil.cpu_times()
    own = sum(os.times()[:4]) + sum(sum(one.cpu_times()[:2]) for one in (list_family(server) if server else ()))
    return np.array(
        [time.monotonic() * (os.cpu_count() or 1), sum(spent) - spent.idle - getattr(spent, "iowait", 0), own]
    )


def find_others(before: Clocks, after: Clocks) -> float:
    """Return the share of the processors that other processes used, 0 to 1."""
    passed, busy, own = after - before
    return float(np.clip((busy - own) / passed, 0, 1))


def shrink_images(raw: Path, out: Path, images: int) -> None:
    """Write `images` JPEG files of SIDE pixels, made from the files below `raw` in turn."""
    out.mkdir()
    found = sorted(path for path in raw.rglob("*") if path.suffix.lower() in (".jpeg", ".jpg", ".png"))[:images]
    for number in range(images):
        path = out / f"{number:05d}.jpeg"
        if number < len(found):
            Image.open(found[number]).convert("L").resize((SIDE, SIDE)).save(path, quality=90)
        else:
            shutil.copyfile(out / f"{number % len(found):05d}.jpeg", path)


def main() -> None:
    """Measure all ways and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="JSON file")
    parser.add_argument("--images", type=int, default=4000, help="for the command")
    parser.add_argument("--seconds", type=float, default=60, help="for each server")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shrink_images(Path("data/raw"), images := Path(folder) / "images", arguments.images)
        ways = []
        for way in measure_ways(images, arguments.seconds):
            print(way, flush=True)
            ways.append(asdict(way))
    arguments.out.write_text(json.dumps(ways))


if __name__ == "__main__":
    main()
