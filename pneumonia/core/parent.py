"""End a stage with the DVC process that started it: killing `dvc` leaves its stages running."""

import os
import sys
import threading
import time
from contextlib import suppress

import psutil

_SECONDS = 0.5  # between two looks


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
