"""Keep libraries quiet: nothing phones home, TensorFlow's start-up lines are not shown, and a user needs no name."""

import getpass
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

# Unless the user says otherwise; DVC's own switch is in .dvc/config.
for _variable, _value in {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "ITERATIVE_DO_NOT_TRACK": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "TF_CPP_MIN_LOG_LEVEL": "2",
}.items():
    os.environ.setdefault(_variable, _value)

try:
    getpass.getuser()
except (KeyError, OSError):  # in a container the user may be a mere number; DVC and MLflow end without a name
    os.environ["LOGNAME"] = str(os.getuid())

logging.getLogger("tensorflow").setLevel(logging.ERROR)  # each pass over other images is traced anew, as it should be

# TensorFlow 2.21 writes these while its libraries load, before any log level applies.
NOISE = re.compile(rb"^(WARNING: All log messages before absl::InitializeLog|I\d{4} .*oneDNN custom operations are on)")


@contextmanager
def without_noise() -> Iterator[None]:
    """Hold back what is written to standard output and error, also by C++, and pass on all lines but NOISE."""
    sys.stdout.flush()
    sys.stderr.flush()
    held = [(stream, os.dup(stream), tempfile.TemporaryFile()) for stream in (1, 2)]  # noqa: SIM115
    for stream, _, file in held:
        os.dup2(file.fileno(), stream)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        said: dict[int, bytes] = {}
        for stream, original, file in held:
            os.dup2(original, stream)
            os.close(original)
            with file:
                file.seek(0)
                said[stream] = b"".join(line for line in file if not NOISE.match(line))
        for stream, lines in said.items():  # last of all, as there may be no space for them
            if lines:
                os.write(stream, lines)


class _QuietLoader(Loader):
    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__:
            module.__spec__.loader = module.__loader__ = self.loader
        with without_noise():
            self.loader.exec_module(module)


class _QuietFinder(MetaPathFinder):
    """Import TensorFlow, whoever asks for it first, without its start-up lines."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path) if fullname == "tensorflow" else None
        if spec and spec.loader:
            spec.loader = _QuietLoader(spec.loader)
        return spec


sys.meta_path.insert(0, _QuietFinder())
