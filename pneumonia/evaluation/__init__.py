"""Measure a model on the test split."""
