"""How the machine is used: cores, memory and precision."""

import ctypes
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar

from tqdm.contrib.concurrent import thread_map

from pneumonia.core.errors import InputError

T = TypeVar("T")

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # of malloc.h
THREADS = "TF_NUM_INTRAOP_THREADS"  # TensorFlow reads it when it first computes


def count_threads() -> int:
    """Return how many threads may work at once: what `use_threads` chose, else the cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return int(os.environ.get(THREADS) or 0) or cores or 1


def map_threads(function: Callable[..., T], *items: Iterable[Any], desc: str) -> list[T]:
    """Return what `function` says of each item, computed in parallel, with a progress bar.

    Worth it for functions that release the interpreter lock: decoders, hashes, SciPy.
    """
    return thread_map(function, *items, max_workers=count_threads(), desc=desc, unit=" images", disable=None)


def use_threads(number: int | Literal["auto"]) -> None:
    """Choose how many threads work at once, in TensorFlow too when it has not computed anything yet."""
    if number != "auto":
        os.environ[THREADS] = str(number)


def keep_memory() -> None:
    """Keep the memory that arrays leave for the next ones until the process ends; only glibc can.

    TensorFlow allocates each result anew. By default glibc hands large blocks back to the kernel, which clears every
    page of the next one: 12 million page faults in an epoch of fine-tuning (mallopt(3)).
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**26)):
            libc.mallopt(option, value)


def use_precision(precision: Literal["float32", "bfloat16"]) -> None:
    """Choose the precision in which TensorFlow multiplies; weights, activations and files stay float32.

    Raises:
        InputError: the processor has no bfloat16, which would be many times slower there.
    """
    if precision == "bfloat16" and not has_bfloat16():
        raise InputError(
            "compute.precision is bfloat16, which this processor cannot multiply.",
            expected="a Linux machine whose /proc/cpuinfo names avx512_bf16 or amx_bf16",
            remedy="set compute.precision to float32",
        )
    if precision == "bfloat16" or "tensorflow" in sys.modules:
        import tensorflow as tf

        tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": precision == "bfloat16"})


def has_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether the processor multiplies bfloat16."""
    return cpuinfo.exists() and not {"avx512_bf16", "amx_bf16"}.isdisjoint(cpuinfo.read_text().split())
