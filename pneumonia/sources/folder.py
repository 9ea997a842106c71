"""Link the images of an existing folder to `out/<source_folder>/<LABEL>/<file>`, whole or not at all."""

import mimetypes
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from tqdm import tqdm

from pneumonia.core.errors import InputError

_SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
_LABELS = {"normal": "NORMAL", "pneumonia": "PNEUMONIA"}
_DICOM = (".dcm", ".dicom")  # whether mimetypes knows them depends on the machine
_JUNK = (".*", "__macosx", "thumbs.db", "desktop.ini", "readme", "readme.*", "licen[cs]e*")
_SOURCES = "or choose data.source=phantom (no download), mendeley, kaggle, or data.source=folder with data.path"


def fetch_folder(path: Path, out: Path) -> None:
    """Hard-link the images of an existing folder into `out`, copying where the file system cannot link.

    Understands `{train,val,test}/{NORMAL,PNEUMONIA}/` with any of the splits (`validation` means `val`) and
    `{NORMAL,PNEUMONIA}/` alone (source folder `all`), in any case of letters, up to three folders down. The shallowest
    such tree counts: a second copy within it, as in Kaggle's archive, is ignored. A class folder gives all its files.

    A link shares content and permissions with the user's own file. Nothing here changes either, and DVC's default
    `cache.type`, `reflink,copy`, replaces links by copies; `hardlink` would make those files its read-only cache.

    Raises:
        InputError: the folder is missing, not laid out like that or within `out`, or something in it would be lost.
        OSError: the disk is full, or a folder cannot be read. `out` is as it was before.
    """
    path = path.expanduser().resolve()
    if not path.is_dir():
        raise _not_laid_out(f"{path} is {'not a folder' if path.exists() else 'missing'}.")
    root = _find_root(path)
    if root.is_relative_to(out.resolve()):
        raise _not_laid_out(f"{root} lies within {out}, which fetching replaces.")
    images = list(_list_images(root))
    with _fresh_folder(out.with_name(f".{out.name}.partial")) as beside:
        for image, place in tqdm(images, desc=f"Linking {root.name}", unit="file", disable=None):
            (beside / place).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(image.resolve(), beside / place)  # Linux would link a symbolic link itself
            except OSError:
                shutil.copyfile(image, beside / place)
        shutil.rmtree(out, ignore_errors=True)  # What stays makes the next line fail.
        beside.rename(out)


def _find_root(path: Path) -> Path:
    level = [path]
    for _ in range(4):  # as deep as versions/2/chest_xray in kagglehub's cache
        roots = [folder for folder in level if _known_names(folder)]
        if len(roots) > 1:
            raise _not_laid_out(f"{path} holds several data sets: {', '.join(map(str, roots))}.")
        if roots:
            return roots[0]
        level = [entry for folder in level for entry in _entries(folder) if entry.is_dir()]
    raise _not_laid_out(f"{path} holds no split or class folder.")


def _list_images(root: Path) -> Iterator[tuple[Path, Path]]:
    """Yield every image and its place under `out`, in the order of their names."""
    splits = _match(root, _SPLITS) if _known_names(root) & _SPLITS.keys() else {"all": root}
    for split, split_folder in splits.items():
        folders = _match(split_folder, _LABELS)
        for label in _LABELS.values():
            images = _entries(folders[label]) if label in folders else []
            if not images:
                raise _not_laid_out(f"{split_folder / label} is {'empty' if label in folders else 'missing'}.")
            for image in images:
                if not image.is_file():
                    raise _not_laid_out(f"{image} is not a file.")
                yield image, Path(split, label, image.name)


def _match(folder: Path, names: dict[str, str]) -> dict[str, Path]:
    """Return the sub-folders of `folder` by what they stand for; refuse all others but a second copy of the splits."""
    matched: dict[str, Path] = {}
    for entry in _entries(folder):
        name = names.get(entry.name.lower())
        if name in matched:
            raise _not_laid_out(f"{matched[name]} and {entry} both stand for {name}.")
        if name and entry.is_dir():
            matched[name] = entry
        elif entry.is_dir() and not (names is _SPLITS and _known_names(entry) == _known_names(folder)):
            raise _not_laid_out(f"{entry} is an unknown folder.")
        elif (mimetypes.guess_type(entry.name)[0] or "").startswith("image/") or entry.suffix.lower() in _DICOM:
            raise _not_laid_out(f"{entry} is an image outside of the class folders.")
    return matched


def _known_names(folder: Path) -> set[str]:
    return {entry.name.lower() for entry in _entries(folder) if entry.is_dir()} & (_SPLITS.keys() | _LABELS.keys())


def _entries(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not any(fnmatch(entry.name.lower(), junk) for junk in _JUNK))


@contextmanager
def _fresh_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder, free of what a killed run left there, and remove it at the end unless it was renamed."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _not_laid_out(what: str) -> InputError:
    layout = "{train,val,test}/{NORMAL,PNEUMONIA}/<images>, some of these splits, or {NORMAL,PNEUMONIA}/<images>"
    return InputError(what, expected=layout, remedy=f"correct that folder or data.path, {_SOURCES}")
