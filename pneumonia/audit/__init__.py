"""Audit labels and images: what a person should look at, worst first."""
