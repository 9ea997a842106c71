"""Find the images that paths and glob patterns on the command line stand for."""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from pneumonia.core.errors import InputError
from pneumonia.core.paths import SUFFIXES, has_suffix, may_be_image


def find_images(patterns: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """List the files that paths and glob patterns stand for, each once, and what lies among them and is no image.

    A file named in full counts as an image whatever it is. One found in a folder, or by a pattern, does if its suffix
    or its first bytes are an image's, or if it cannot be opened: scoring then says why. Links are followed.

    Returns:
        Images, in the order of the patterns and sorted within each; a path or pattern that matches none is among them.
        Then the other files.

    Raises:
        InputError: no path and no pattern matches an image.
    """
    images: dict[Path, None] = {}
    others: dict[Path, None] = {}
    unmatched: list[str] = []
    for pattern in patterns:
        found = sorted(_expand(pattern))
        matched = [path for path, is_image in found if is_image]
        images |= dict.fromkeys(matched or [Path(pattern)])
        others |= dict.fromkeys(path for path, is_image in found if not is_image)
        unmatched += [] if matched else [pattern]
    if len(unmatched) == len(patterns):
        raise InputError(
            f"{', '.join(unmatched)} matches no image.",
            expected=f"a file, or a folder or pattern with images, such as {', '.join(SUFFIXES)}",
            remedy="correct the path",
        )
    return list(images), [path for path in others if path not in images]


def _expand(pattern: str) -> Iterator[tuple[Path, bool]]:
    """Yield each file that a path or pattern stands for, and whether it may be an image."""
    if os.path.isdir(pattern):
        yield from _list_folder(pattern)
    elif os.path.lexists(pattern):
        yield Path(pattern), True
    else:
        for match in glob.glob(pattern, recursive=True):
            folder = os.path.isdir(match)
            if not folder or has_suffix(match):
                yield Path(match), may_be_image(Path(match))
            if folder:
                yield from _list_folder(match)


def _list_folder(folder: str) -> Iterator[tuple[Path, bool]]:
    locked: list[str] = []
    seen = {os.path.realpath(folder)}  # links may lead in circles
    for place, folders, files in os.walk(folder, onerror=lambda error: locked.append(error.filename), followlinks=True):
        yield from ((path, may_be_image(path)) for path in (Path(place, name) for name in files))
        yield from ((Path(place, name), True) for name in folders if has_suffix(name))  # looks like an image, is none
        for name in sorted(folders):
            real = os.path.realpath(os.path.join(place, name))
            if real in seen:
                folders.remove(name)
            seen.add(real)
    yield from ((Path(path), True) for path in locked)
