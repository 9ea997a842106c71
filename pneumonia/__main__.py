"""Run a command: python -m pneumonia COMMAND."""

import signal
import sys

from pneumonia.core.errors import InputError


def main() -> None:
    """Run the command; a package that is not installed is an error in three parts, Ctrl+C a quiet end with 130."""
    try:
        from pneumonia.cli.main import main

        main()
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("pneumonia", ""):
            raise
        missing = InputError(
            f"The package {error.name} is not installed for {sys.executable}.",
            expected="the Python of .venv; serve needs requirements-serve.txt too",
            remedy="make setup, or make setup-dicom for serve; then run .venv/bin/python -m pneumonia, or make serve",
        )
        raise SystemExit(str(missing)) from None


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    main()
