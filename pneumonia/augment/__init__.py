"""The data set that models train on: balanced, decoded and augmented."""
