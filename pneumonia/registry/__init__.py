"""Versions in the MLflow model registry, and who becomes champion."""
