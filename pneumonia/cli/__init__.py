"""The commands of `python -m pneumonia`."""
