"""Find the command and run it; only its own module is imported."""

import argparse
import os
import signal
import sys
from importlib import import_module

from pneumonia.core.errors import InputError
from pneumonia.core.stage import explain_full_disk
from pneumonia.tracking.connection import reaching

# Each is a module beside this one with `add_arguments` and `run`.
COMMANDS = {
    "status": "print the test metrics and the registered versions",
    "compare": "run recipes as experiments and set them side by side",
    "crossval": "cross-validate recipes over folds and seeds",
    "predict": "score images; not a medical device",
    "serve": "answer over HTTP: API and page",
    "retrain": "run the pipeline and compare its model with another commit's",
    "registry": "list, show, promote, roll back and verify versions",
}


def main(arguments: list[str] | None = None) -> None:
    """Run one command; an InputError becomes a message without traceback and exit status 1.

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
    module = import_module(f"pneumonia.cli.{name}")
    parser = argparse.ArgumentParser(prog=f"python -m pneumonia {name}", description=module.__doc__)
    module.add_arguments(parser)
    options = vars(parser.parse_args(given[1:]))
    try:
        with reaching():
            module.run(**options)
        sys.stdout.flush()
    except InputError as error:
        raise SystemExit(str(error)) from None
    except BrokenPipeError:  # whoever reads has enough, as `head` does
        for stream in (1, 2):  # Python would write what is left as it exits
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        raise SystemExit(128 + signal.SIGPIPE) from None
    except OSError as error:
        if not (full := explain_full_disk(error)):
            raise
        raise SystemExit(str(full)) from error
