"""Wait for another process."""

import time
from pathlib import Path


def wait_for(project: Path, pattern: str) -> None:
    """Wait until a file in a project matches a pattern, at most two minutes."""
    deadline = time.monotonic() + 120
    while not list(project.glob(pattern)):
        assert time.monotonic() < deadline, f"{pattern} did not appear"
        time.sleep(0.02)
