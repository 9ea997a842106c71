"""A download resumes, is verified and unpacked, and one that fails leaves what was there."""

import hashlib
import io
import os
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from folders import SPLITS, make, names_in
from urllib3.util import Retry

from pneumonia.core.errors import InputError
from pneumonia.sources import download
from pneumonia.sources.download import fetch_kaggle, fetch_mendeley

OTHER_SOURCES = r"data\.source=phantom .*mendeley, kaggle, or data\.source=folder with data\.path"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Return where to fetch to, alone in its folder so that leftovers show."""
    return tmp_path / "data/raw"


def zipped(*names: str) -> bytes:
    """Return an archive of these names, padded to be large enough to cut."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("chest_xray/.padding", os.urandom(2**20))
        for name in names:
            archive.writestr(name, name)
    return file.getvalue()


class Server(ThreadingHTTPServer):
    """Serves one archive behind a redirect, as Mendeley Data does, with the faults that a test sets."""

    content = zipped(*(f"chest_xray/{name}" for name in SPLITS), "__MACOSX/chest_xray/train/NORMAL/._a.jpeg")
    cut_after: int | None = None  # after so many bytes of the body the connection breaks
    knows_ranges = True
    failures = 0  # answers 503 so many times

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.ranges: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}/file_downloaded"


class Answer(BaseHTTPRequestHandler):
    """Answers one request to `Server`."""

    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        """Redirect to the storage, or send the archive from the byte requested."""
        server = self.server
        if self.path == "/file_downloaded":
            return self.start(302, Location="/storage")
        server.ranges.append(self.headers["Range"])
        if server.failures:
            server.failures -= 1
            return self.start(503)
        start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")) if server.knows_ranges else 0
        body = server.content[start:]
        if not body:
            return self.start(416)
        status, length = 206 if server.knows_ranges else 200, str(len(body))
        self.start(status, **{"Content-Length": length, "Content-Range": f"bytes {start}-/{len(server.content)}"})
        self.wfile.write(body[: server.cut_after])

    def start(self, status: int, **headers: str) -> None:
        """Send the head of an answer."""
        self.send_response(status)
        for name, value in ({"Content-Length": "0"} | headers).items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Run a server in place of Mendeley Data."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as server:
        monkeypatch.setattr(download, "MENDELEY_URL", server.url)
        monkeypatch.setattr(download, "MENDELEY_SHA256", hashlib.sha256(server.content).hexdigest())
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class TestMendeley:
    """The archive is downloaded, verified and unpacked."""

    def test_the_archive_arrives_unpacked_and_is_kept(self, server: Server, out: Path, tmp_path: Path):
        fetch_mendeley(out, tmp_path / "downloads")
        assert names_in(out) == set(SPLITS)
        assert names_in(tmp_path / "downloads") == {"ChestXRay2017.zip", "ChestXRay2017.lock"}
        assert len(server.ranges) == 1

    def test_an_interrupted_download_resumes(self, server: Server, out: Path, tmp_path: Path):
        server.cut_after = len(server.content) // 2
        with pytest.raises(InputError, match="run it again to resume"):
            fetch_mendeley(out, tmp_path)
        assert not out.exists()
        kept = (tmp_path / "ChestXRay2017.zip").stat().st_size
        server.cut_after = None
        fetch_mendeley(out, tmp_path)
        assert server.ranges == ["bytes=0-", f"bytes={kept}-"]
        assert kept > len(server.content) // 4
        assert names_in(out) == set(SPLITS)

    def test_from_a_server_without_ranges_a_download_starts_over(self, server: Server, out: Path, tmp_path: Path):
        server.knows_ranges = False
        (tmp_path / "ChestXRay2017.zip").write_bytes(server.content[:1000])
        fetch_mendeley(out, tmp_path)
        assert server.ranges == ["bytes=1000-"]
        assert names_in(out) == set(SPLITS)

    def test_a_complete_archive_is_not_downloaded_again(self, server: Server, out: Path, tmp_path: Path):
        (tmp_path / "ChestXRay2017.zip").write_bytes(server.content)
        fetch_mendeley(out, tmp_path)
        assert server.ranges == []

    def test_a_busy_server_is_tried_again(self, server: Server, out: Path, tmp_path: Path):
        server.failures = 1
        fetch_mendeley(out, tmp_path)
        assert len(server.ranges) == 2

    @pytest.mark.parametrize("knows_ranges", [True, False])
    def test_a_wrong_checksum_is_refused_and_the_file_removed(
        self, server: Server, out: Path, tmp_path: Path, knows_ranges: bool
    ):
        server.content, server.knows_ranges = zipped("chest_xray/other"), knows_ranges
        make(out, "all/NORMAL/old.jpeg")
        with pytest.raises(InputError, match="instead of"):
            fetch_mendeley(out, tmp_path / "downloads")
        assert names_in(tmp_path) == {"data/raw/all/NORMAL/old.jpeg", "downloads/ChestXRay2017.lock"}

    def test_a_wrong_file_of_full_length_is_removed(self, server: Server, out: Path, tmp_path: Path):
        (tmp_path / "ChestXRay2017.zip").write_bytes(bytes(len(server.content)))
        with pytest.raises(InputError, match="instead of"):
            fetch_mendeley(out, tmp_path)
        assert names_in(tmp_path) == {"ChestXRay2017.lock"}

    @pytest.mark.parametrize("name", ["../escaped.jpeg", "chest_xray/../../escaped.jpeg", "/tmp/escaped.jpeg"])
    def test_an_archive_that_points_outside_is_refused(
        self, server: Server, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ):
        server.content = zipped(*SPLITS, name)
        monkeypatch.setattr(download, "MENDELEY_SHA256", hashlib.sha256(server.content).hexdigest())
        with pytest.raises(InputError, match="points outside"):
            fetch_mendeley(out, tmp_path)
        assert names_in(tmp_path) == {"ChestXRay2017.zip", "ChestXRay2017.lock"}

    def test_no_network_is_one_error_that_names_the_other_sources(
        self, server: Server, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        server.server_close()
        monkeypatch.setattr(download, "_RETRIES", Retry(0))
        make(out, "all/NORMAL/old.jpeg")
        with pytest.raises(InputError, match=OTHER_SOURCES):
            fetch_mendeley(out, tmp_path)
        assert names_in(out) == {"all/NORMAL/old.jpeg"}


class TestKaggle:
    """The release that kagglehub fetches: the real library, with an empty home and without a network."""

    @pytest.fixture(autouse=True)
    def offline(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Send kagglehub to a closed port."""
        for name in ("HTTPS_PROXY", "https_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        for name in ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN", "NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "kaggle"))
        monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "cache"))

    def test_a_release_in_kagglehubs_cache_is_linked_from_there(self, tmp_path: Path, out: Path):
        cache = make(tmp_path / "cache/datasets/paultimothymooney/chest-xray-pneumonia", "2.complete")
        make(cache / "versions/2/chest_xray", *SPLITS)
        fetch_kaggle(out)
        assert names_in(out) == set(SPLITS)

    def test_no_network_is_one_error_that_names_the_other_sources(self, out: Path):
        make(out, "all/NORMAL/old.jpeg")
        with pytest.raises(InputError, match=OTHER_SOURCES):
            fetch_kaggle(out)
        assert names_in(out) == {"all/NORMAL/old.jpeg"}

    def test_broken_credentials_are_an_input_error(self, tmp_path: Path, out: Path):
        make(tmp_path, "kaggle/kaggle.json")
        with pytest.raises(InputError, match=r"kaggle\.json"):
            fetch_kaggle(out)
