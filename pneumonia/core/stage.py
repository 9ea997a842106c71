"""Run one function as a DVC stage."""

import argparse
import errno
import inspect
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_type_hints

from pneumonia.core.errors import InputError
from pneumonia.core.params import Params, Section
from pneumonia.core.params_file import load_params
from pneumonia.core.parent import end_with_dvc
from pneumonia.core.runtime import use_threads

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


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
        if not (full := _explain_full_disk(error)):
            raise
        raise SystemExit(f"{stage.__name__}: {full}") from error
    print(f"{stage.__name__}: {summary} ({time.monotonic() - start:.0f} s)")


def _explain_full_disk(error: BaseException | None) -> InputError | None:
    """Return what to tell people if the operating system found no space, whatever a library made of its answer."""
    while error and not (isinstance(error, OSError) and error.errno in _NO_SPACE):
        error = error.__cause__ or error.__context__
    return error and InputError(
        f"{error.filename or 'A file'} could not be written: {error.strerror}.",
        expected="enough free space for all outputs; what was there before is untouched",
        remedy="free some space (make clean-cache, dvc gc -w) and run the same command again",
    )


def _section(params: Params, kind: type[Section]) -> Section:
    return params if kind is Params else next(s for _, s in params if type(s) is kind)
