"""Processes of their own that start with MLflow imported: a fork takes milliseconds, the import seconds."""

import multiprocessing

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload([
    *(f"mlflow.store.{part}.sqlalchemy_store" for part in ("model_registry", "tracking")), "mlflow.data.numpy_dataset",
    "mlflow.system_metrics.system_metrics_monitor", "mlflow.tracking.context.registry", "matplotlib.figure", "pandas",
    "mlflow.server.fastapi_app",
])  # fmt: skip
