"""What `pneumonia.sources` promises about folders and downloads."""

import errno
import hashlib
import io
import os
import shutil
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from projects import REAL_DATA
from urllib3.util import Retry

from pneumonia.core.errors import InputError
from pneumonia.sources import download
from pneumonia.sources.download import fetch_kaggle, fetch_mendeley
from pneumonia.sources.folder import fetch_folder

REAL = REAL_DATA
PAIR = ("NORMAL/a.jpeg", "PNEUMONIA/b.jpeg")
OTHER_SOURCES = r"data\.source=phantom .*mendeley, kaggle, or data\.source=folder with data\.path"
SPLITS = tuple(f"{split}/{image}" for split in ("train", "val", "test") for image in PAIR)


def make(root: Path, *names: str) -> Path:
    """Write one small file per name, holding its own name."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def names_in(root: Path) -> set[str]:
    """Return every file below `root`, hidden ones too."""
    return {file.relative_to(root).as_posix() for file in root.rglob("*") if not file.is_dir()}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Return where to fetch to, alone in its folder so that leftovers show."""
    return tmp_path / "data/raw"


class TestLayouts:
    """Folders that are understood."""

    def test_splits_and_classes_keep_their_names_and_content(self, tmp_path: Path, out: Path):
        fetch_folder(make(tmp_path / "in", *SPLITS), out)
        assert names_in(out.parent) == {f"raw/{name}" for name in SPLITS}
        assert (out / "val/PNEUMONIA/b.jpeg").read_text() == "val/PNEUMONIA/b.jpeg"

    @pytest.mark.parametrize("wrapper", ["chest_xray", "versions/2/chest_xray"])
    def test_a_wrapper_folder_is_looked_through(self, tmp_path: Path, out: Path, wrapper: str):
        make(tmp_path / "in" / wrapper, *SPLITS)
        fetch_folder(tmp_path / "in", out)
        assert names_in(out) == set(SPLITS)

    def test_the_second_copy_in_kaggles_archive_is_ignored(self, tmp_path: Path, out: Path):
        outer = make(tmp_path / "in/chest_xray", *SPLITS)
        make(outer / "chest_xray", *SPLITS, "train/.DS_Store")
        make(outer / "__MACOSX/chest_xray", "train/NORMAL/._a.jpeg", "train/._NORMAL")
        fetch_folder(tmp_path / "in", out)
        assert names_in(out) == set(SPLITS)

    def test_the_authors_release_has_no_val(self, tmp_path: Path, out: Path):
        names = ("NORMAL/NORMAL-28501-0001.jpeg", "PNEUMONIA/BACTERIA-1008087-0001.jpeg", "PNEUMONIA/VIRUS-9-1.jpeg")
        release = {f"{split}/{name}" for split in ("train", "test") for name in names}
        fetch_folder(make(tmp_path / "chest_xray", *release), out)
        assert names_in(out) == release

    def test_classes_without_splits_become_the_source_folder_all(self, tmp_path: Path, out: Path):
        fetch_folder(make(tmp_path / "in", *PAIR), out)
        assert names_in(out) == {"all/NORMAL/a.jpeg", "all/PNEUMONIA/b.jpeg"}

    def test_letter_case_and_validation_are_made_uniform(self, tmp_path: Path, out: Path):
        fetch_folder(make(tmp_path / "in", "Validation/normal/A.JPG", "Validation/Pneumonia/b.png"), out)
        assert names_in(out) == {"val/NORMAL/A.JPG", "val/PNEUMONIA/b.png"}

    @pytest.mark.parametrize(
        "junk",
        [
            *(".DS_Store", "Thumbs.db", "._a.jpeg", "__MACOSX/x", "desktop.ini", ".gitignore", ".git/HEAD"),
            *("README", "README.md", "readme.txt", "LICENSE", "LICENSE.txt"),
        ],
    )
    def test_junk_is_ignored_at_every_level(self, tmp_path: Path, out: Path, junk: str):
        levels = [f"{level}{junk}" for level in ("", "train/", "train/NORMAL/")]
        fetch_folder(make(tmp_path / "in", *SPLITS, *levels), out)
        assert names_in(out) == set(SPLITS)

    def test_tables_beside_the_class_folders_are_left_where_they_are(self, tmp_path: Path, out: Path):
        fetch_folder(make(tmp_path / "in", *SPLITS, "metadata.csv", "train/labels.json"), out)
        assert names_in(out) == set(SPLITS)

    @pytest.mark.parametrize("name", ["broken", "scan.dcm", "notes.txt", "page.html"])
    def test_a_class_folder_gives_every_file_whatever_its_ending(self, tmp_path: Path, out: Path, name: str):
        fetch_folder(make(tmp_path / "in", *PAIR, f"NORMAL/{name}"), out)
        assert f"all/NORMAL/{name}" in names_in(out)

    def test_a_symbolic_link_gives_the_file_that_it_points_to(self, tmp_path: Path, out: Path):
        make(tmp_path, "elsewhere/original.jpeg")
        folder = make(tmp_path / "in", *PAIR)
        (folder / "NORMAL/linked.jpeg").symlink_to("../../elsewhere/original.jpeg")
        fetch_folder(folder, out)
        assert not (out / "all/NORMAL/linked.jpeg").is_symlink()
        assert (out / "all/NORMAL/linked.jpeg").read_text() == "elsewhere/original.jpeg"

    @pytest.mark.real_data
    @pytest.mark.skipif(not REAL.exists(), reason="../shared/data is not on this machine")
    @pytest.mark.parametrize(("name", "count"), [("chest_xray", 5856), ("originals", 120)])
    def test_the_real_radiographs_all_arrive(self, out: Path, name: str, count: int):
        fetch_folder(REAL / name, out)
        assert len(names_in(out)) == count


class TestFaults:
    """Folders that are refused, with the culprit named."""

    @pytest.mark.parametrize(
        ("names", "culprit"),
        [
            ([*SPLITS, "foo/x.jpeg"], "foo is an unknown folder"),
            ([*SPLITS, "train/COVID/x.jpeg"], "train/COVID is an unknown folder"),
            ([*SPLITS, "train/more/NORMAL/a.jpeg", "train/more/PNEUMONIA/b.jpeg"], "train/more is an unknown folder"),
            ([*SPLITS, "other_site/NORMAL/x.jpeg"], "other_site is an unknown folder"),
            ([*SPLITS, "NORMAL/x.jpeg"], "NORMAL is an unknown folder"),
            ([*PAIR, "COVID/x.jpeg"], "COVID is an unknown folder"),
            ([*SPLITS, "test/x.jpeg"], "test/x.jpeg is an image outside"),
            ([*SPLITS, "test/x.DCM"], "test/x.DCM is an image outside"),
            ([*SPLITS, "test/x.dicom"], "test/x.dicom is an image outside"),
            ([*SPLITS, "train/NORMAL/deep/x.jpeg"], "train/NORMAL/deep is not a file"),
            ([*SPLITS, "validation/NORMAL/x.jpeg"], "both stand for val"),
            ([*PAIR, "normal/x.jpeg"], "both stand for NORMAL"),
            (["NORMAL/a.jpeg"], "PNEUMONIA is missing"),
            (["train/PNEUMONIA/a.jpeg"], "train/NORMAL is missing"),
            (["train/NORMAL/a.jpeg", "train/PNEUMONIA/.DS_Store"], "train/PNEUMONIA is empty"),
            (["a.jpeg", "cats/b.jpeg"], "holds no split or class folder"),
            (["one/NORMAL/a.jpeg", "two/NORMAL/a.jpeg"], "holds several data sets"),
        ],
    )
    def test_what_would_be_lost_or_is_missing_is_named(self, tmp_path: Path, out: Path, names: list[str], culprit: str):
        with pytest.raises(InputError, match=culprit):
            fetch_folder(make(tmp_path / "in", *names), out)
        assert not out.parent.exists()

    def test_an_empty_folder_is_refused(self, tmp_path: Path, out: Path):
        with pytest.raises(InputError, match="holds no split or class folder"):
            fetch_folder(tmp_path, out)

    def test_a_missing_path_is_refused(self, tmp_path: Path, out: Path):
        with pytest.raises(InputError, match=r"nowhere is missing(.|\n)*data\.path"):
            fetch_folder(tmp_path / "nowhere", out)

    def test_a_file_is_refused(self, tmp_path: Path, out: Path):
        with pytest.raises(InputError, match=r"archive\.zip is not a folder"):
            fetch_folder(make(tmp_path, "archive.zip") / "archive.zip", out)

    def test_a_dangling_link_is_refused(self, tmp_path: Path, out: Path):
        folder = make(tmp_path / "in", *PAIR)
        (folder / "NORMAL/gone.jpeg").symlink_to("nowhere")
        with pytest.raises(InputError, match=r"gone\.jpeg is not a file"):
            fetch_folder(folder, out)

    @pytest.mark.parametrize("path", ["data/raw", "data"])
    def test_the_output_itself_is_refused_and_kept(self, tmp_path: Path, out: Path, path: str):
        make(out, *PAIR)
        with pytest.raises(InputError, match="lies within"):
            fetch_folder(tmp_path / path, out)
        assert names_in(out) == set(PAIR)


class TestWriting:
    """How files come to `out`."""

    def test_files_are_hard_links_where_the_file_system_can(self, tmp_path: Path, out: Path):
        folder = make(tmp_path / "in", *PAIR)
        fetch_folder(folder, out)
        assert (out / "all/NORMAL/a.jpeg").samefile(folder / "NORMAL/a.jpeg")

    def test_files_are_copied_between_file_systems(self, tmp_path: Path, out: Path):
        if not os.access("/dev/shm", os.W_OK) or os.stat("/dev/shm").st_dev == tmp_path.stat().st_dev:
            pytest.skip("no second file system to write to")
        with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
            fetch_folder(make(Path(elsewhere), *PAIR), out)
        assert (out / "all/NORMAL/a.jpeg").read_text() == "NORMAL/a.jpeg"

    def test_the_users_files_keep_their_permissions_and_content(self, tmp_path: Path, out: Path):
        folder = make(tmp_path / "in", *PAIR)
        (folder / "NORMAL/a.jpeg").chmod(0o640)
        fetch_folder(folder, out)
        fetch_folder(folder, out)
        assert (folder / "NORMAL/a.jpeg").stat().st_mode & 0o777 == 0o640
        assert names_in(folder) == set(PAIR)

    def test_an_earlier_fetch_is_replaced_as_a_whole(self, tmp_path: Path, out: Path):
        make(out, "all/NORMAL/old.jpeg")
        fetch_folder(make(tmp_path / "in", *SPLITS), out)
        assert names_in(out) == set(SPLITS)

    def test_what_a_killed_run_left_does_not_mix_in(self, tmp_path: Path, out: Path):
        make(out.with_name(".raw.partial"), "train/NORMAL/old.jpeg")
        fetch_folder(make(tmp_path / "in", *SPLITS), out)
        assert names_in(out.parent) == {f"raw/{name}" for name in SPLITS}

    def test_a_full_disk_leaves_out_as_it_was(self, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch):
        make(out, "all/NORMAL/old.jpeg")

        def full(_source: Path, _target: Path) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "link", full)
        monkeypatch.setattr(shutil, "copyfile", full)
        with pytest.raises(OSError, match="No space left"):
            fetch_folder(make(tmp_path / "in", *SPLITS), out)
        assert names_in(out.parent) == {"raw/all/NORMAL/old.jpeg"}


def zipped(*names: str) -> bytes:
    """Return an archive of these names and of a padding large enough to be cut."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("chest_xray/.padding", os.urandom(2**20))
        for name in names:
            archive.writestr(name, name)
    return file.getvalue()


class Server(ThreadingHTTPServer):
    """Serves one archive behind a redirect, as Mendeley Data does, with the faults that a test asks for."""

    content = zipped(*(f"chest_xray/{name}" for name in SPLITS), "__MACOSX/chest_xray/train/NORMAL/._a.jpeg")
    cut_after: int | None = None  # bytes of the body, then the connection breaks
    knows_ranges = True
    failures = 0  # answers 503 that many times

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.ranges: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}/file_downloaded"


class Answer(BaseHTTPRequestHandler):
    """Answers one request to `Server`."""

    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        """Redirect to the storage, or send the archive from where the request asks."""
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
    """Run a server in the place of Mendeley Data."""
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
    """The archive that is downloaded, checked and unpacked."""

    def test_the_archive_arrives_unpacked_and_is_kept(self, server: Server, out: Path, tmp_path: Path):
        fetch_mendeley(out, tmp_path / "downloads")
        assert names_in(out) == set(SPLITS)
        assert names_in(tmp_path / "downloads") == {"ChestXRay2017.zip"}
        assert len(server.ranges) == 1

    def test_a_broken_download_goes_on_where_it_stopped(self, server: Server, out: Path, tmp_path: Path):
        server.cut_after = len(server.content) // 2
        with pytest.raises(InputError, match="run it again to go on"):
            fetch_mendeley(out, tmp_path)
        assert not out.exists()
        kept = (tmp_path / "ChestXRay2017.zip").stat().st_size
        server.cut_after = None
        fetch_mendeley(out, tmp_path)
        assert server.ranges == ["bytes=0-", f"bytes={kept}-"]
        assert kept > len(server.content) // 4
        assert names_in(out) == set(SPLITS)

    def test_a_server_without_ranges_makes_it_start_anew(self, server: Server, out: Path, tmp_path: Path):
        server.knows_ranges = False
        (tmp_path / "ChestXRay2017.zip").write_bytes(server.content[:1000])
        fetch_mendeley(out, tmp_path)
        assert server.ranges == ["bytes=1000-"]
        assert names_in(out) == set(SPLITS)

    def test_a_whole_archive_is_not_asked_for_again(self, server: Server, out: Path, tmp_path: Path):
        (tmp_path / "ChestXRay2017.zip").write_bytes(server.content)
        fetch_mendeley(out, tmp_path)
        assert server.ranges == []

    def test_a_busy_server_is_asked_again(self, server: Server, out: Path, tmp_path: Path):
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
        assert names_in(tmp_path) == {"data/raw/all/NORMAL/old.jpeg"}

    def test_a_file_that_is_long_enough_but_wrong_is_removed(self, server: Server, out: Path, tmp_path: Path):
        (tmp_path / "ChestXRay2017.zip").write_bytes(bytes(len(server.content)))
        with pytest.raises(InputError, match="instead of"):
            fetch_mendeley(out, tmp_path)
        assert names_in(tmp_path) == set()

    @pytest.mark.parametrize("name", ["../escaped.jpeg", "chest_xray/../../escaped.jpeg", "/tmp/escaped.jpeg"])
    def test_an_archive_that_points_outside_is_refused(
        self, server: Server, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ):
        server.content = zipped(*SPLITS, name)
        monkeypatch.setattr(download, "MENDELEY_SHA256", hashlib.sha256(server.content).hexdigest())
        with pytest.raises(InputError, match="points outside"):
            fetch_mendeley(out, tmp_path)
        assert names_in(tmp_path) == {"ChestXRay2017.zip"}

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
    """The release that kagglehub fetches: the real library, with an empty home and no way out."""

    @pytest.fixture(autouse=True)
    def offline(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Send kagglehub to a closed port."""
        for name in ("HTTPS_PROXY", "https_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        for name in ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN", "NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "kaggle"))
        monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "cache"))

    def test_what_kagglehub_has_in_its_cache_is_linked_from_there(self, tmp_path: Path, out: Path):
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
