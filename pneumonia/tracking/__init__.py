"""Record training phases as MLflow runs."""
