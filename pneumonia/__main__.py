"""Run a command: python -m pneumonia COMMAND."""

import sys

from pneumonia.cli.main import main

if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    main()
