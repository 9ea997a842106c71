"""The measured comparisons that the documentation quotes: `python -m benchmarks`."""
