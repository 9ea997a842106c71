"""Run a command: python -m pneumonia COMMAND."""

from pneumonia.cli.main import main

if __name__ == "__main__":
    main()
