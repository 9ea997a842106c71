"""Threads are as many as were asked for; a precision that the processor does not have is refused."""

import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from projects import ROOT

from pneumonia.core import runtime as compute
from pneumonia.core.errors import InputError
from pneumonia.core.runtime import THREADS, count_threads, map_threads, use_precision, use_threads

PLAIN = "processor\t: 0\nflags\t\t: fpu sse2 avx2 avx512f avx512_vnni\n"
WITH_BFLOAT16 = PLAIN.replace("avx512_vnni", "avx512_vnni avx512_bf16")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be chosen yet, and forget afterwards what a test chose."""
    monkeypatch.setenv(THREADS, "")
    monkeypatch.delenv(THREADS)


def test_there_are_as_many_threads_as_were_asked_for():
    use_threads(3)
    assert count_threads() == 3


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system binds no process to cores")
def test_by_default_there_are_as_many_threads_as_cores_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 2, 5, 7, 11})
    use_threads("auto")
    assert count_threads() == 5


@pytest.mark.parametrize("cores, threads", [(6, 6), (None, 1)])
def test_where_no_process_is_bound_to_cores_all_of_them_count(
    monkeypatch: pytest.MonkeyPatch, cores: int | None, threads: int
):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert count_threads() == threads


def test_a_zero_from_outside_means_what_it_means_to_tensorflow(monkeypatch: pytest.MonkeyPatch):
    expected = count_threads()
    monkeypatch.setenv(THREADS, "0")
    assert count_threads() == expected


def test_as_many_items_are_worked_on_at_once_as_there_are_threads():
    use_threads(3)
    together, threads = threading.Barrier(3, timeout=60), set[int]()

    def work(item: int) -> None:
        threads.add(threading.get_ident())
        together.wait()

    map_threads(work, range(6), desc="test")
    assert len(threads) == 3


def test_results_stand_in_the_order_of_the_items_whichever_is_done_first():
    use_threads(4)

    def negate(item: int) -> int:
        time.sleep(0.02 if item % 3 == 0 else 0)
        return -item

    assert map_threads(negate, range(12), desc="test") == [-item for item in range(12)]


def test_several_lists_are_taken_side_by_side():
    assert map_threads(lambda one, other: one + other, ["a", "b"], ["x", "y"], desc="test") == ["ax", "by"]


def test_nothing_comes_of_nothing():
    assert map_threads(str, [], desc="test") == []


def test_what_the_function_raises_is_raised():
    def refuse(item: int) -> int:
        if item == 5:
            raise InputError("five", expected="four", remedy="subtract one")
        return item

    with pytest.raises(InputError, match="five"):
        map_threads(refuse, range(10), desc="test")


def has_bfloat16(folder: Path, cpuinfo: str) -> bool:
    path = folder / "cpuinfo"
    path.write_text(cpuinfo)
    return compute.has_bfloat16(path)


def test_the_processor_has_bfloat16_when_its_flags_say_so(tmp_path: Path):
    assert has_bfloat16(tmp_path, WITH_BFLOAT16)
    assert has_bfloat16(tmp_path, PLAIN.replace("avx512_vnni", "amx_bf16"))
    assert not has_bfloat16(tmp_path, PLAIN)
    assert not has_bfloat16(tmp_path, PLAIN + "model name\t: not_avx512_bf16_yet\n")
    assert not compute.has_bfloat16(tmp_path / "missing")


def test_bfloat16_is_refused_in_three_parts_where_the_processor_has_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "cpuinfo").write_text(PLAIN)
    monkeypatch.setattr(compute.has_bfloat16, "__defaults__", (tmp_path / "cpuinfo",))
    with pytest.raises(InputError) as refusal:
        use_precision("bfloat16")
    assert str(refusal.value).splitlines() == [
        "compute.precision is bfloat16, which this processor cannot multiply.",
        "  Expected: a Linux machine whose /proc/cpuinfo names avx512_bf16 or amx_bf16",
        "  Remedy: set compute.precision to float32",
    ]


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_float32_asks_nothing_of_the_processor_and_does_not_even_import_tensorflow():
    code = (
        "import sys; from pneumonia.core.runtime import *; use_precision('float32'); print('tensorflow' in sys.modules)"
    )
    assert run_python(code) == "False\n"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory")
def test_memory_that_was_kept_is_not_asked_of_the_kernel_again():
    code = """if True:
        import resource
        import numpy as np
        from pneumonia.core.runtime import keep_memory

        def count():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(20):
                np.ones(2**23)
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

        plain = count()
        keep_memory()
        count()
        print(plain > 20 * count())
    """
    assert run_python(code) == "True\n"


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="this system does not list threads")
def test_tensorflow_works_with_as_many_threads_as_were_asked_for():
    code = """if True:
        from pathlib import Path
        from pneumonia.core.runtime import use_threads

        def count():
            names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
            return names.count(Path("/proc/self/comm").read_text())

        use_threads(5)
        import tensorflow as tf

        before = count()
        tf.linalg.matmul(tf.ones((2, 2)), tf.ones((2, 2)))
        print(count() - before)
    """
    assert run_python(code) == "5\n"


def test_a_precision_holds_until_another_is_chosen_whatever_the_processor_is():
    code = """
from pneumonia.core import runtime
from pneumonia.core.runtime import use_precision
import tensorflow as tf
runtime.has_bfloat16 = lambda: True  # TensorFlow takes the option on any processor, and nothing is computed here
for precision in ("bfloat16", "float32"):
    use_precision(precision)
    print(tf.config.optimizer.get_experimental_options()["auto_mixed_precision_onednn_bfloat16"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
