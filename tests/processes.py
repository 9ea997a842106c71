"""Processes that are forked from one which has imported MLflow already."""

import os
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any


class _Process(ForkServerProcess):
    """A process with the environment of the test that starts it; its server has that of the first one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.environment = dict(os.environ)

    def run(self) -> None:
        os.environ.clear()
        os.environ.update(self.environment)
        super().run()


class _Context(ForkServerContext):
    Process = _Process


FORKED = _Context()
FORKED.set_forkserver_preload([
    *(f"mlflow.store.{part}.sqlalchemy_store" for part in ("model_registry", "tracking")), "mlflow.data.numpy_dataset",
    "mlflow.system_metrics.system_metrics_monitor", "mlflow.tracking.context.registry", "matplotlib.figure", "pandas",
    "mlflow.server.fastapi_app",
])  # fmt: skip
