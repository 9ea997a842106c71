"""Train a classifier phase by phase; knows nothing of MLflow."""
