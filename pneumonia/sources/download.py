"""Download the published data sets."""

import zipfile
from pathlib import Path

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.util import Retry

from pneumonia.core.errors import InputError
from pneumonia.core.files import locked, project_home, sha256_file
from pneumonia.sources.folder import SOURCES, bad_layout, fetch_folder, fresh_folder

# The pinned version makes a commit fetch the same bytes, and lets kagglehub use its cache without asking Kaggle.
KAGGLE_HANDLE = "paultimothymooney/chest-xray-pneumonia/versions/2"
MENDELEY_FILES = "https://data.mendeley.com/public-files/datasets/rscbjbr9sj/files"
MENDELEY_URL = f"{MENDELEY_FILES}/f12eaf6d-6023-432f-acc9-80c9d7393433/file_downloaded"
MENDELEY_SHA256 = "13efc055629733dbab07877f8b3c9f81097840dbcdaa326a8542322c2281ce36"
_RETRIES = Retry(total=3, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504))


def fetch_kaggle(out: Path) -> None:
    """Fetch https://www.kaggle.com/datasets/paultimothymooney/chest-xray-pneumonia into kagglehub's cache and `out`.

    Raises:
        InputError: the download failed; also as in `fetch_folder`.
    """
    import kagglehub  # slow to import, and the other sources do without

    try:
        with locked(project_home() / ".cache" / "kaggle", "downloading these images"):
            folder = kagglehub.dataset_download(KAGGLE_HANDLE)
    except Exception as error:  # kagglehub's errors share no base class
        raise _not_downloaded(f"{KAGGLE_HANDLE}: {error}", "check the network and your kaggle.json") from error
    fetch_folder(Path(folder), out)


def fetch_mendeley(out: Path, downloads: Path) -> None:
    """Download ChestXRay2017.zip (1,235,512,464 bytes) of https://data.mendeley.com/datasets/rscbjbr9sj/2 and unpack.

    An interrupted download stays in `downloads` and resumes; a complete one, also from a browser, is used as it is.
    Mendeley Data redirects `public-files/datasets/<id>/files/<file id>/file_downloaded` to its storage, and lists
    checksums at `public-api/datasets/<id>/files?folder_id=root&version=2`, as `content_details.sha256_hash`.

    Raises:
        InputError: the download failed, its checksum is wrong, or an entry points outside the archive; also as in
            `fetch_folder`.
    """
    archive = downloads / "ChestXRay2017.zip"
    with locked(archive, "downloading these images"):
        _download(MENDELEY_URL, archive, MENDELEY_SHA256)
        _unpack(archive, out)


def _unpack(archive: Path, out: Path) -> None:
    with zipfile.ZipFile(archive) as content, fresh_folder(archive.with_name("unpacked")) as folder:
        for name in content.namelist():
            if name.startswith("/") or ".." in name.split("/"):
                raise bad_layout(f"{archive} holds {name}, which points outside the archive.")
        content.extractall(folder)
        fetch_folder(folder, out)


def _download(url: str, file: Path, sha256: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    if sha256_file(file) == sha256:
        return
    try:
        _resume(url, file)
    except requests.RequestException as error:
        raise _not_downloaded(f"{url}: {error}", f"run it again to resume, or save that address as {file}") from error
    if (received := sha256_file(file)) != sha256:
        file.unlink()
        raise _not_downloaded(f"{url} sent SHA-256 {received} instead of {sha256}", "run it again to start over")


def _resume(url: str, file: Path) -> None:
    # No If-Range: parts of two different files cannot have the known checksum.
    start = file.stat().st_size
    headers = {"Accept-Encoding": "identity", "Range": f"bytes={start}-", "User-Agent": "pneumonia"}
    with requests.Session() as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=_RETRIES))
        with session.get(url, headers=headers, stream=True, timeout=(10, 60)) as response, file.open("ab") as stream:
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                return  # nothing is left to send; the checksum tells whether the file is right
            response.raise_for_status()
            if response.status_code != requests.codes.partial_content:
                start = stream.truncate(0)  # the server sends the whole file
            total = start + int(response.headers.get("Content-Length", 0))
            with tqdm(total=total, initial=start, desc=file.name, unit="B", unit_scale=True, disable=None) as progress:
                for chunk in response.iter_content(1 << 18):
                    progress.update(stream.write(chunk))


def _not_downloaded(what: str, remedy: str) -> InputError:
    return InputError(f"Download failed: {what}.", expected="the published file", remedy=f"{remedy}, {SOURCES}")
