"""Backbones, the classifier on top, and the cached activations of its frozen part."""
