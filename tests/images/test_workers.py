"""A file that takes too much time or memory is refused alone: its decoder ends, and others go on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from struct import pack
from typing import Any

import numpy as np
import psutil
import pytest
from dicoms import encode, encode_pillow, wrap
from numpy.random import default_rng
from projects import ROOT
from pydicom import uid

from pneumonia.images.decode import describe_image, digest_pixels, read_image
from pneumonia.images.refusal import ImageRefusedError, LimitExceededError
from pneumonia.images.workers import Decoders

NOISE = default_rng(0).integers(0, 256, (90, 70), dtype=np.uint8)
FILES = {"jpeg": encode_pillow(NOISE, "jpeg"), "png": encode_pillow(NOISE, "png"), "dicom": encode(NOISE)}


def segment(marker: int, content: bytes) -> bytes:
    return pack(">BBH", 255, marker, len(content) + 2) + content


# Noise, in ten scans: what is checked before decoding lets it pass, and it takes 30 ms and more.
SLOW = encode_pillow(default_rng(0).integers(0, 256, (1000, 1000, 3), dtype=np.uint8), "jpeg", progressive=True)
STRIP = default_rng(0).integers(0, 256, (100, 4000, 3), dtype=np.uint8)
LARGE = encode_pillow(np.repeat(STRIP, 40, axis=0), "png", compress_level=1)


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoders]:
    with closing(Decoders(1, seconds=5, megabytes=32)) as decoder:
        yield decoder


@pytest.mark.parametrize("kind", FILES)
def test_a_file_is_decoded_as_without_workers(decoder: Decoders, kind: str):
    np.testing.assert_array_equal(decoder.read(FILES[kind], 32), read_image(FILES[kind], 32))
    assert decoder.describe(FILES[kind]) == describe_image(FILES[kind])
    assert decoder.digest(FILES[kind]) == digest_pixels(FILES[kind])


@pytest.mark.parametrize("content", [b"", b"none", FILES["png"][:900]], ids=["empty", "no image", "truncated"])
def test_a_file_is_refused_for_the_same_reason_as_without_workers(decoder: Decoders, content: bytes):
    with pytest.raises(ImageRefusedError) as expected:
        read_image(content, 32)
    with pytest.raises(ImageRefusedError) as found:
        decoder.read(content, 32)
    assert str(found.value) == str(expected.value) and not isinstance(found.value, LimitExceededError)


def test_a_file_that_takes_too_long_is_refused():
    with closing(Decoders(1, seconds=0.01)) as decoders:
        with pytest.raises(LimitExceededError, match=r"^takes more than 0.01 seconds to decode$"):
            decoders.describe(SLOW)
        assert decoders.replaced == 1


def test_an_image_of_more_work_than_a_process_may_begin_is_left_to_another():
    with closing(Decoders(1, pixels=6000)) as decoders:
        with pytest.raises(LimitExceededError, match=r"^takes as much work as 6,300 pixels$"):
            decoders.read(FILES["png"], 32)
        with pytest.raises(LimitExceededError, match="as much work as 9,450 pixels"):  # in six scans
            decoders.read(encode_pillow(NOISE, "jpeg", progressive=True), 32)
        assert decoders.read(encode_pillow(NOISE[:80], "jpeg"), 32).shape == (32, 32) and decoders.replaced == 0


def test_others_are_read_while_a_decoder_hangs_and_by_its_successor():
    with closing(Decoders(2, seconds=0.5)) as decoders, ThreadPoolExecutor(2) as threads:
        decoders.read(FILES["png"], 32)  # both have started
        hanging = threads.submit(decoders._ask, exec, b"import time; time.sleep(60)")
        for _ in range(20):
            decoders.read(FILES["jpeg"], 32)
        assert not hanging.done()
        with pytest.raises(LimitExceededError):
            hanging.result()
        assert len([*threads.map(decoders.read, [FILES["png"]] * 8, [32] * 8)]) == 8
        assert decoders.replaced == 1


@pytest.mark.parametrize("content", [LARGE, encode(np.zeros((4000, 4000), np.uint16))], ids=["png", "dicom"])
def test_a_file_that_takes_too_much_memory_is_refused_and_says_so(decoder: Decoders, content: bytes):
    with pytest.raises(LimitExceededError, match=r"^takes more than 32 MB of memory to decode$"):
        decoder.read(content, 32)
    decoder.read(FILES["dicom"], 32)


def test_a_process_that_is_killed_from_outside_is_replaced(decoder: Decoders):
    before = decoder.replaced
    os.kill(decoder._workers[0].process.pid, signal.SIGKILL)
    decoder._workers[0].process.wait()
    with pytest.raises(LimitExceededError, match="ends the process"):
        decoder.read(FILES["png"], 32)
    assert decoder.read(FILES["png"], 32).shape == (32, 32) and decoder.replaced == before + 1


def test_decoders_that_are_closed_leave_no_process_not_even_a_busy_one():
    with closing(Decoders(1)) as decoders, ThreadPoolExecutor(1) as threads:
        decoders.read(FILES["png"], 32)
        slow = threads.submit(decoders._ask, exec, b"import time; time.sleep(60)")
        time.sleep(0.1)
        decoders.close()
        with pytest.raises(ImageRefusedError):
            slow.result(2)
        assert decoders._workers[0].process.returncode == -signal.SIGKILL


PARENT = """
import sys
from pneumonia.images.workers import Decoders
decoders = Decoders(1)
print(decoders._workers[0].process.pid, flush=True)
sys.stdin.read()
"""


def test_decoders_end_with_their_parent():
    command, environment = [sys.executable, "-c", PARENT], os.environ | {"PYTHONPATH": str(ROOT)}
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    parents: dict[signal.Signals, Any] = {
        number: subprocess.Popen(command, env=environment, **pipes) for number in (signal.SIGKILL, signal.SIGTERM)
    }
    children = []
    for number, parent in parents.items():
        with parent:
            children.append(psutil.Process(int(parent.stdout.readline())))
            parent.send_signal(number)
    assert not psutil.wait_procs(children, timeout=20)[1]


def test_a_compressed_dicom_that_asks_for_memory_ends_no_more_than_its_decoder(decoder: Decoders):
    frame = segment(0xF7, pack(">BHHBBBB", 8, 8000, 8000, 1, 1, 0x11, 0)) + segment(0xDA, b"\1\1\0\0\0\0")
    content = wrap(b"\xff\xd8" + frame + bytes(4000) + b"\xff\xd9", uid.JPEGLSLossless, np.zeros((8, 8), np.uint8),
                   Rows=8000, Columns=8000)  # fmt: skip
    with pytest.raises(ImageRefusedError):
        decoder.read(content, 32)
    decoder.read(FILES["dicom"], 32)
