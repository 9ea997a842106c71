"""Find the command and run it; only its own module is imported."""

import argparse
import os
import signal
import sys
from importlib import import_module
from typing import TextIO

from pneumonia.core.errors import InputError
from pneumonia.core.stage import explain_full_disk
from pneumonia.tracking.failures import reaching

# Each is a module beside this one with `add_arguments` and `run`.
COMMANDS = {
    "status": "print the test metrics and the registered versions",
    "compare": "run recipes as experiments and set them side by side",
    "crossval": "cross-validate recipes over folds and seeds",
    "audit": "list doubtful labels, near duplicates and outliers",
    "predict": "score images; not a medical device",
    "serve": "answer over HTTP: API and page",
    "retrain": "run the pipeline and compare its model with another commit's",
    "registry": "list, show, promote, roll back and verify versions",
}


def main(arguments: list[str] | None = None) -> None:
    """Run one command; an InputError or a full disk becomes a message without traceback and exit status 1.

    A reader that has enough ends it quietly with 141.

    Args:
        arguments: the command and its own arguments; those of the process by default.
    """
    listed = "\n".join(f"  {name:9} {what}" for name, what in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="python -m pneumonia", formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"Commands around the pipeline:\n{listed}",
    )  # fmt: skip
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    given = sys.argv[1:] if arguments is None else arguments
    name = parser.parse_args(given[:1]).command
    try:
        _run(name, given[1:])
        sys.stdout.flush()
    except InputError as error:
        raise SystemExit(str(error)) from None
    except BrokenPipeError:  # whoever reads has enough, as `head` does
        _discard(sys.stdout, sys.stderr)
        raise SystemExit(128 + signal.SIGPIPE) from None
    except Exception as error:
        if not (full := explain_full_disk(error)):
            raise
        try:
            sys.stdout.flush()
        except OSError:  # it is what has no space
            _discard(sys.stdout)
        raise SystemExit(str(full)) from error


def _run(name: str, given: list[str]) -> None:
    module = import_module(f"pneumonia.cli.{name}")
    parser = argparse.ArgumentParser(prog=f"python -m pneumonia {name}", description=module.__doc__)
    module.add_arguments(parser)
    options = vars(parser.parse_args(given))
    with reaching():
        module.run(**options)


def _discard(*streams: TextIO) -> None:
    """Drop what streams still hold; Python would write it as it exits."""
    for stream in streams:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
