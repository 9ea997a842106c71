"""Where images come from: an existing folder, a download, or synthetic radiographs."""
