"""Where images come from: a folder, a download, or the phantom that draws synthetic radiographs."""
