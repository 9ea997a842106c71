"""Fixtures: a tiny copy of the project, with its own git, DVC and MLflow stores."""

import os
import shutil
import signal
from pathlib import Path

import pytest
from filelock import FileLock
from projects import LEADING, REAL_DATA, copy_project, run

from pneumonia.core.runtime import has_bfloat16

# A shell that starts the tests in the background ignores SIGINT, in all that they start too.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Two workers share two cores: threads of each would wait for those of the other.
for _name in ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
for _name in [name for name in os.environ if name.startswith(LEADING)]:
    del os.environ[_name]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a tiny project in which nothing has run yet."""
    return copy_project(tmp_path / "project")


# The longest files, longest first: whichever worker is free takes the next, and no worker is left with a long one.
SLOWEST = ["test_seed_systems.py", "test_workflows.py", "test_repro.py", "test_compare.py", "test_server.py",
           "test_retrain.py", "test_real_images.py"]  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add an option for CI, where all that a test needs is there but the real images."""
    parser.addoption("--no-skips", action="store_true", help="a skipped test fails the session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the files by how long they take; with --no-skips leave out what needs images or a processor not here."""
    items.sort(key=lambda item: SLOWEST.index(item.path.name) if item.path.name in SLOWEST else len(SLOWEST))
    absent = {"real_data": not REAL_DATA.exists(), "bfloat16": not has_bfloat16()}
    if config.getoption("--no-skips"):
        left_out = [item for item in items if any(absent.get(mark.name) for mark in item.iter_markers())]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a session in which something was skipped although --no-skips was given."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if session.config.getoption("--no-skips") and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny project whose pipeline has run, to look at."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "once"
    with FileLock(shared.with_suffix(".lock")):  # the first worker makes it for all
        if not (shared / "made").exists():
            project = copy_project(shared / "project")
            run("dvc", "repro", cwd=project)
            (shared / "made").touch()
    return shared / "project"


@pytest.fixture
def finished(once: Path, tmp_path: Path) -> Path:
    """Return a copy of a tiny project whose pipeline has run, to change."""
    return shutil.copytree(once, tmp_path / "finished", symlinks=True)
