"""Run one function as a DVC stage, and end it with the DVC process that started it."""

import argparse
import errno
import inspect
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import get_type_hints

import psutil

from pneumonia.core.errors import InputError
from pneumonia.core.params import Params, Section
from pneumonia.core.params_file import load_params
from pneumonia.core.runtime import use_threads

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_SECONDS = 0.5  # between two looks whether DVC is still there


def run_stage(stage: Callable[..., str]) -> None:
    """Call `stage` with paths from the command line and the sections of params.yaml that its signature asks for.

    Each parameter of type Path is a required option: `train_history` is `--train-history`. What the stage returns, one
    line, is printed with the stage's name and seconds. An InputError and a full disk become a message without traceback
    and exit status 1. The stage ends when the DVC process that started it does.
    """
    hints = {name: hint for name, hint in get_type_hints(stage).items() if name != "return"}
    parser = argparse.ArgumentParser(description=inspect.getdoc(sys.modules[stage.__module__]))
    for name, hint in hints.items():
        if hint is Path:
            parser.add_argument(f"--{name.replace('_', '-')}", type=Path, required=True)
    paths = vars(parser.parse_args())
    start = time.monotonic()
    end_with_dvc()
    try:
        params = load_params()
        use_threads(params.compute.threads)
        summary = stage(**paths, **{name: _section(params, hint) for name, hint in hints.items() if hint is not Path})
    except InputError as error:
        raise SystemExit(f"{stage.__name__}: {error}") from None
    except Exception as error:
        if not (full := explain_full_disk(error)):
            raise
        raise SystemExit(f"{stage.__name__}: {full}") from error
    print(f"{stage.__name__}: {summary} ({time.monotonic() - start:.0f} s)")


def explain_full_disk(error: BaseException | None) -> InputError | None:
    """Return what to tell people if the operating system found no space, whatever a library made of its answer."""
    while error and not (isinstance(error, OSError) and error.errno in _NO_SPACE):
        error = error.__cause__ or error.__context__
    return error and InputError(
        f"{error.filename or 'A file or standard output'} could not be written: {error.strerror}.",
        expected="enough free space for all outputs; what was there before is untouched",
        remedy="free some space (make clean-cache, dvc gc -w) and run the same command again",
    )


def _section(params: Params, kind: type[Section]) -> Section:
    return params if kind is Params else next(s for _, s in params if type(s) is kind)


def end_with_dvc() -> None:
    """End this process and its children, as a kill does, once DVC, the shell between or the make above is gone.

    Without DVC above, nothing is watched. DVC sets DVC_STAGE for its stages, make sets MAKELEVEL. Linux's
    PR_SET_PDEATHSIG does not help: the parent may be a shell, which outlives DVC.
    """
    if "DVC_STAGE" in os.environ:
        threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    with suppress(psutil.NoSuchProcess, ProcessLookupError):  # one may go while it is looked at
        starters = _list_starters()
        # Without a process that is no stage itself, DVC was gone before this one could look.
        if any("DVC_STAGE" not in process.environ() for process in starters):
            while _list_starters() == starters:
                time.sleep(_SECONDS)
    with suppress(OSError):
        print("DVC has ended, and this stage with it.", file=sys.stderr, flush=True)
    here = psutil.Process()
    for process in [*here.children(recursive=True), here]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _list_starters() -> list[psutil.Process]:
    """Return the processes above this one up to the one that somebody ran: make, else DVC.

    Whoever adopts the orphan of a killed process, such as init, is in another process group.
    """
    starters: list[psutil.Process] = []
    for process in psutil.Process().parents():
        if os.getpgid(process.pid) != os.getpgrp():
            break
        starters.append(process)
        if not {"DVC_STAGE", "MAKELEVEL"} & process.environ().keys():
            break
    return starters


def is_running(process: int) -> bool:
    """Return whether a process of this machine runs; one that was killed and not yet reaped does not."""
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
