"""The benchmark of serving tells answers from errors, and always ends."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks import servers, serving
from benchmarks.serving import Way, find_others, measure_command, measure_service, read_clocks, shrink_images
from benchmarks.tables import tabulate_served


@pytest.fixture(scope="module")
def images(once: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("small") / "images"
    shrink_images(once / "data/raw", folder, 70)
    return sorted(folder.iterdir())


def test_few_images_are_repeated_up_to_the_number_requested(images: list[Path]) -> None:
    assert len(images) == 70 and images[0].read_bytes() == images[60].read_bytes() != images[1].read_bytes()


def test_the_command_is_measured_with_and_without_its_start(
    once: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    took = iter([4.0, 10.0])
    monkeypatch.setattr(serving, "time_predict", lambda path: next(took))
    assert [way.rate for way in measure_command(images, 0)] == [69 / 6, 7]


def test_the_service_is_measured(once: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(once)
    monkeypatch.setattr(serving, "WARM_UP", 0.5)
    (way,) = measure_service(images, 2)
    assert way.rate > 1 and way.errors == 0
    assert 0 < way.latency[0] <= way.latency[1] < 2
    assert all(0.2 < gigabytes < 4 for gigabytes in way.memory)


def ask(seconds: float, answer: bytes | None) -> tuple[list[float | None], float]:
    """Load a server that gives everybody the same response, or hangs up."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while answer and await reader.read(4):
            writer.write(answer)
        writer.close()
        await writer.wait_closed()

    async def measure() -> list[float | None]:
        async with await asyncio.start_server(talk, servers.HOST, port := servers.find_port()):
            return await servers.ask_together(port, [b"ask!"], seconds)

    start = time.perf_counter()
    return asyncio.run(measure()), time.perf_counter() - start


@pytest.mark.parametrize(
    "answer, judge",
    [(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", lambda took: None not in took and min(took) > 0),
     (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", lambda took: set(took) == {None}),
     (b"HTTP/1.1 200 OK\r\n\r\n", lambda took: set(took) == {None}),
     (None, lambda took: set(took) == {None})],
    ids=["ok", "busy", "no length", "hung up"],
)  # fmt: skip
def test_only_a_complete_response_with_status_200_is_no_error(
    answer: bytes | None, judge: Callable[[list[float | None]], bool]
) -> None:
    took, seconds = ask(0.5, answer)
    assert len(took) >= servers.CLIENTS and judge(took)
    assert seconds < 5


def test_a_server_that_does_not_start_is_an_error_with_its_output() -> None:
    with (
        pytest.raises(RuntimeError, match="no such thing"),
        servers.serving(["sh", "-c", "echo no such thing; exit 1"], f"http://{servers.HOST}:{servers.find_port()}"),
    ):
        pass


def test_the_table_has_a_row_for_each_way() -> None:
    ways = [Way("command", 70.4, 0.031, alone=100.0), Way("server", 80.0, 0.0, (0.1234, 0.2), 1234, (1.0, 1.0), 100.0)]
    report = tabulate_served([vars(way) for way in ways], 60)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in report.splitlines() if line.startswith("| ")]
    assert "For 60 s, 16 clients" in report and len(rows[0]) == 10
    assert rows[2:] == [["command", "70", "100", "70%", "3%", *[""] * 5],
                        ["server", "80", "100", "80%", "0%", "123", "200", "1,234", "1.000", "1.000"]]  # fmt: skip


def test_the_share_of_other_processes_leaves_out_what_is_measured() -> None:
    before, enough = read_clocks(), time.process_time() + 0.5
    while time.process_time() < enough:
        pass
    passed, busy, own = read_clocks() - before
    assert 0.4 < own < 0.7 and busy > 0.4 and passed > 0.5
    assert find_others(np.zeros(3), np.array([4.0, 3.0, 1.0])) == 0.5
    assert find_others(np.zeros(3), np.array([4.0, 1.0, 1.01])) == 0
