"""Bring radiographs from elsewhere to `out/<source_folder>/<LABEL>/<file>`, whole or not at all."""

import mimetypes
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.util import Retry

from pneumonia.errors import InputError
from pneumonia.files import sha256_file

# Pinned to a version: the same commit fetches the same bytes, and kagglehub answers from its cache without asking.
KAGGLE_HANDLE = "paultimothymooney/chest-xray-pneumonia/versions/2"
MENDELEY_FILES = "https://data.mendeley.com/public-files/datasets/rscbjbr9sj/files"
MENDELEY_URL = f"{MENDELEY_FILES}/f12eaf6d-6023-432f-acc9-80c9d7393433/file_downloaded"
MENDELEY_SHA256 = "13efc055629733dbab07877f8b3c9f81097840dbcdaa326a8542322c2281ce36"

_SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
_LABELS = {"normal": "NORMAL", "pneumonia": "PNEUMONIA"}
_DICOM = (".dcm", ".dicom")  # whether mimetypes knows them depends on the machine
_JUNK = (".*", "__macosx", "thumbs.db", "desktop.ini", "readme", "readme.*", "licen[cs]e*")
_SOURCES = "or choose data.source=phantom (no download), mendeley, kaggle, or data.source=folder with data.path"
_RETRIES = Retry(total=3, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504))


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


def fetch_kaggle(out: Path) -> None:
    """Fetch https://www.kaggle.com/datasets/paultimothymooney/chest-xray-pneumonia into kagglehub's cache, then `out`.

    Raises:
        InputError: the download failed. Others as in `fetch_folder`.
    """
    import kagglehub  # Slow, and the other sources do without.

    try:
        folder = kagglehub.dataset_download(KAGGLE_HANDLE)
    except Exception as error:  # kagglehub's own errors have no base class in common
        raise _not_downloaded(f"{KAGGLE_HANDLE}: {error}", "check the network and your kaggle.json") from error
    fetch_folder(Path(folder), out)


def fetch_mendeley(out: Path, downloads: Path = Path("data/downloads")) -> None:
    """Fetch ChestXRay2017.zip (1,235,512,464 bytes) of https://data.mendeley.com/datasets/rscbjbr9sj/2, and unpack it.

    A broken download stays in `downloads` and goes on where it stopped; a whole one, also one from a browser, is not
    asked for again. Mendeley Data redirects `public-files/datasets/<id>/files/<file id>/file_downloaded` to its storage
    and lists checksums at `public-api/datasets/<id>/files?folder_id=root&version=2`, as `content_details.sha256_hash`.

    Raises:
        InputError: the download failed, its checksum is wrong, or an entry points outside. Others as in `fetch_folder`.
    """
    archive = downloads / "ChestXRay2017.zip"
    _download(MENDELEY_URL, archive, MENDELEY_SHA256)
    with zipfile.ZipFile(archive) as content, _fresh_folder(downloads / "unpacked") as folder:
        for name in content.namelist():
            if name.startswith("/") or ".." in name.split("/"):
                raise _not_laid_out(f"{archive} holds {name}, which points outside of it.")
        content.extractall(folder)
        fetch_folder(folder, out)


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


def _download(url: str, file: Path, sha256: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    if sha256_file(file) == sha256:
        return
    try:
        _resume(url, file)
    except requests.RequestException as error:
        raise _not_downloaded(f"{url}: {error}", f"run it again to go on, or save that address as {file}") from error
    if (received := sha256_file(file)) != sha256:
        file.unlink()
        raise _not_downloaded(f"{url} sent SHA-256 {received} instead of {sha256}", "run it again to start afresh")


def _resume(url: str, file: Path) -> None:
    # If-Range is not needed: parts of two different files cannot have the checksum, which is known beforehand.
    start = file.stat().st_size
    headers = {"Accept-Encoding": "identity", "Range": f"bytes={start}-", "User-Agent": "pneumonia"}
    with requests.Session() as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=_RETRIES))
        with session.get(url, headers=headers, stream=True, timeout=(10, 60)) as response, file.open("ab") as stream:
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                return  # Nothing is left to send; the checksum tells whether what is here is right.
            response.raise_for_status()
            if response.status_code != requests.codes.partial_content:
                start = stream.truncate(0)  # The server sends everything anew.
            total = start + int(response.headers.get("Content-Length", 0))
            with tqdm(total=total, initial=start, desc=file.name, unit="B", unit_scale=True, disable=None) as progress:
                for chunk in response.iter_content(1 << 18):
                    progress.update(stream.write(chunk))


def _not_laid_out(what: str) -> InputError:
    layout = "{train,val,test}/{NORMAL,PNEUMONIA}/<images>, some of these splits, or {NORMAL,PNEUMONIA}/<images>"
    return InputError(what, expected=layout, remedy=f"correct that folder or data.path, {_SOURCES}")


def _not_downloaded(what: str, remedy: str) -> InputError:
    return InputError(f"Download failed: {what}.", expected="the published file", remedy=f"{remedy}, {_SOURCES}")
