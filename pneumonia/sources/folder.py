"""Link the images of an existing folder to `out/<source folder>/<LABEL>/<file>`, all or none.

`python -m pneumonia.sources.folder` looks for names in data.path that DVC cannot take, before DVC does.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from tqdm import tqdm

from pneumonia.core.errors import InputError
from pneumonia.core.names import CLASS_FOLDERS, SPLIT_FOLDERS
from pneumonia.core.params_file import load_params
from pneumonia.core.paths import may_be_image, to_text

_KNOWN = SPLIT_FOLDERS.keys() | CLASS_FOLDERS.keys()
_JUNK = (
    *(".*", "__macosx", "thumbs.db", "desktop.ini", "readme", "readme.*", "licen[cs]e*"),
    *("@eadir", "#recycle", "$recycle.bin", "system volume information"),  # of network drives
)
SOURCES = "or choose data.source=phantom (no download), mendeley, kaggle, or data.source=folder with data.path"


def fetch_folder(path: Path, out: Path) -> None:
    """Hard-link the images of an existing folder into `out`, or copy them where the file system cannot link.

    The layout is `{train,val,test}/{NORMAL,PNEUMONIA}/` with any of the splits (`validation` means `val`), or
    `{NORMAL,PNEUMONIA}/` alone (source folder `all`), in upper or lower case, up to three folders down. The shallowest
    such tree counts; a second copy inside it, as in Kaggle's archive, is ignored. A class folder gives all files, those
    in folders of patients or studies below it with their folders.

    A link shares content and permissions with the user's own file. Nothing here changes either, and DVC's default
    `cache.type`, `reflink,copy`, replaces links by copies; `hardlink` would turn those files into its read-only cache.

    Raises:
        InputError: the folder is missing, lies within `out`, has another layout, links to a file outside it,
            or holds something that would be lost.
        OSError: the disk is full, or a folder cannot be read. `out` stays as it was.
    """
    path = path.expanduser().resolve()  # which may be a link itself
    if not path.is_dir():
        raise bad_layout(f"{path} is {'not a folder' if path.exists() else 'missing'}.")
    root = _find_root(path)
    if root.is_relative_to(out.resolve()):
        raise bad_layout(f"{root} lies within {out}, which fetching replaces.")
    refuse_names(path)
    images = list(_list_images(root))
    _refuse_links_out(path, [image for image, _ in images])
    with fresh_folder(out.with_name(f".{out.name}.partial")) as beside:
        for image, place in tqdm(images, desc=f"Linking {root.name}", unit="file", disable=None):
            (beside / place).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(image.resolve(), beside / place)  # os.link would link a symbolic link itself
            except OSError:
                shutil.copyfile(image, beside / place)
        shutil.rmtree(out, ignore_errors=True)  # what cannot be removed makes the next line fail
        beside.rename(out)


def refuse_names(path: Path) -> None:
    """Refuse a folder in which a name is not UTF-8: DVC, which reads all of it, ends with no word of which one."""
    for place, folders, files in os.walk(path):
        for name in (*folders, *files):
            if to_text(name) != name:
                raise InputError(
                    f"The name of {to_text(Path(place, name))} is not UTF-8.",
                    expected="names in UTF-8, as DVC needs them",
                    remedy=f"rename it, or all of them: convmv -f latin1 -t utf8 -r --notest {path}",
                )


def _find_root(path: Path) -> Path:
    level = [path]
    for _ in range(4):  # as deep as versions/2/chest_xray in kagglehub's cache
        roots = [folder for folder in level if _known_names(folder)]
        if len(roots) > 1:
            raise bad_layout(f"{path} holds several data sets: {', '.join(map(str, roots))}.")
        if roots:
            return roots[0]
        level = [entry for folder in level for entry in _entries(folder) if entry.is_dir()]
    raise bad_layout(f"{path} holds no split or class folder.")


def _list_images(root: Path) -> Iterator[tuple[Path, Path]]:
    """Yield every image and its place below `out`, in the order of their names."""
    splits = _match(root, SPLIT_FOLDERS) if _known_names(root) & SPLIT_FOLDERS.keys() else {"all": root}
    for split, split_folder in splits.items():
        folders = _match(split_folder, CLASS_FOLDERS)
        for label in CLASS_FOLDERS.values():
            images = list(_walk(folders[label])) if label in folders else []
            if not images:
                raise bad_layout(f"{split_folder / label} is {'empty' if label in folders else 'missing'}.")
            for image in images:
                yield image, Path(split, label, image.relative_to(folders[label]))


def _walk(folder: Path) -> Iterator[Path]:
    """Yield all files below a class folder."""
    for entry in _entries(folder):
        if entry.is_dir() and not entry.is_symlink():
            if entry.name.lower() in _KNOWN:
                raise bad_layout(f"{entry} is a split or class folder within a class folder.")
            yield from _walk(entry)
        elif entry.is_file():
            yield entry
        else:
            raise bad_layout(f"{entry} is not a file.")


def _refuse_links_out(path: Path, images: list[Path]) -> None:
    """Refuse a link to a file elsewhere, which DVC would push to a remote; git-annex and DVC link into their stores."""
    allowed = (path, Path(".dvc/cache").resolve())
    for image in images:
        target = image.resolve()
        if not any(target.is_relative_to(folder) for folder in allowed):
            raise InputError(
                f"{image} leads out of data.path, to a file named {target.name}.",
                expected=f"files in {path}, and links that stay in it",
                remedy="put a copy of the file in place of the link",
            )


def _match(folder: Path, names: dict[str, str]) -> dict[str, Path]:
    """Return the sub-folders by the name they stand for; refuse any other, except a second copy of the splits."""
    matched: dict[str, Path] = {}
    for entry in _entries(folder):
        name = names.get(entry.name.lower())
        if name in matched:
            raise bad_layout(f"{matched[name]} and {entry} both stand for {name}.")
        if name and entry.is_dir():
            matched[name] = entry
        elif entry.is_dir() and not (names is SPLIT_FOLDERS and _known_names(entry) == _known_names(folder)):
            raise bad_layout(f"{entry} is an unknown folder.")
        elif not entry.is_dir() and may_be_image(entry):
            raise bad_layout(f"{entry} is an image outside the class folders.")
    return matched


def _known_names(folder: Path) -> set[str]:
    return {entry.name.lower() for entry in _entries(folder) if entry.is_dir()} & _KNOWN


def _entries(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not any(fnmatch(entry.name.lower(), junk) for junk in _JUNK))


@contextmanager
def fresh_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder, without what an interrupted run left there, and remove it afterwards unless renamed."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def bad_layout(what: str) -> InputError:
    """Return the error of a folder that is not laid out as `fetch_folder` expects."""
    layout = "{train,val,test}/{NORMAL,PNEUMONIA}/<images>, some of these splits, or {NORMAL,PNEUMONIA}/<images>"
    return InputError(what, expected=layout, remedy=f"correct the folder or data.path, {SOURCES}")


if __name__ == "__main__":
    try:
        if (data := load_params().data).source == "folder":
            refuse_names(data.path)
    except InputError as error:
        raise SystemExit(str(error)) from None
