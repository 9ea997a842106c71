"""Wait for what a process does."""

import time
from pathlib import Path


def wait_for(project: Path, pattern: str) -> None:
    deadline = time.monotonic() + 120
    while not list(project.glob(pattern)):
        assert time.monotonic() < deadline, f"{pattern} did not appear"
        time.sleep(0.02)
