"""A folder in a known layout arrives whole; any other is refused, and what is at fault is named."""

import errno
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from folders import PAIR, SPLITS, make, names_in
from projects import REAL_DATA

from pneumonia.core.errors import InputError
from pneumonia.sources.folder import fetch_folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Return where to fetch to, alone in its folder so that leftovers show."""
    return tmp_path / "data/raw"


class TestLayouts:
    """Layouts that are known."""

    def test_splits_and_classes_keep_their_names_and_content(self, tmp_path: Path, out: Path):
        fetch_folder(make(tmp_path / "in", *SPLITS), out)
        assert names_in(out.parent) == {f"raw/{name}" for name in SPLITS}
        assert (out / "val/PNEUMONIA/b.jpeg").read_text() == "val/PNEUMONIA/b.jpeg"

    @pytest.mark.parametrize("wrapper", ["chest_xray", "versions/2/chest_xray"])
    def test_a_wrapper_folder_is_skipped(self, tmp_path: Path, out: Path, wrapper: str):
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

    def test_case_and_validation_are_normalized(self, tmp_path: Path, out: Path):
        fetch_folder(make(tmp_path / "in", "Validation/normal/A.JPG", "Validation/Pneumonia/b.png"), out)
        assert names_in(out) == {"val/NORMAL/A.JPG", "val/PNEUMONIA/b.png"}

    @pytest.mark.parametrize(
        "junk",
        [
            *(
                ".DS_Store",
                "Thumbs.db",
                "._a.jpeg",
                "__MACOSX/x",
                "desktop.ini",
                ".gitignore",
                ".git/HEAD",
                "@eaDir/a.jpeg/SYNOPHOTO_THUMB_M.jpg",
            ),
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
    def test_a_class_folder_gives_every_file_whatever_its_suffix(self, tmp_path: Path, out: Path, name: str):
        fetch_folder(make(tmp_path / "in", *PAIR, f"NORMAL/{name}"), out)
        assert f"all/NORMAL/{name}" in names_in(out)

    def test_folders_of_patients_and_studies_below_a_class_keep_their_names(self, tmp_path: Path, out: Path):
        names = ("NORMAL/ann/1.png", "NORMAL/ann/study 2/1.png", "NORMAL/bob/1.png", "PNEUMONIA/ann/1.png")
        fetch_folder(make(tmp_path / "in", *names, "NORMAL/bob/.DS_Store"), out)
        assert names_in(out) == {f"all/{name}" for name in names}

    def test_a_symbolic_link_gives_the_file_it_points_to(self, tmp_path: Path, out: Path):
        folder = make(tmp_path / "in", *PAIR, ".git/annex/objects/original.jpeg")
        (folder / "NORMAL/linked.jpeg").symlink_to("../.git/annex/objects/original.jpeg")
        (tmp_path / "link").symlink_to(folder)
        fetch_folder(tmp_path / "link", out)
        assert not (out / "all/NORMAL/linked.jpeg").is_symlink()
        assert (out / "all/NORMAL/linked.jpeg").read_text() == ".git/annex/objects/original.jpeg"

    @pytest.mark.parametrize("place", ["NORMAL/linked.jpeg", "NORMAL"])
    def test_a_link_that_leaves_the_folder_is_refused_and_names_its_target(self, place: str, tmp_path: Path, out: Path):
        make(tmp_path, "secret/passwords")
        folder = make(tmp_path / "in", "PNEUMONIA/a.jpeg", *["NORMAL/a.jpeg"] * (place != "NORMAL"))
        (folder / place).symlink_to(tmp_path / ("secret" if place == "NORMAL" else "secret/passwords"))
        with pytest.raises(InputError, match=r"leads out of data.path, to a file named passwords(.|\n)*Remedy"):
            fetch_folder(folder, out)
        assert not out.exists()

    @pytest.mark.real_data
    @pytest.mark.skipif(not REAL_DATA.exists(), reason=f"needs the real images at {REAL_DATA}")
    @pytest.mark.parametrize(("name", "count"), [("chest_xray", 5856), ("originals", 120)])
    def test_all_real_images_arrive(self, out: Path, name: str, count: int):
        fetch_folder(REAL_DATA / name, out)
        assert len(names_in(out)) == count


class TestFaults:
    """Folders that are refused; the error names what is at fault."""

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
            ([*SPLITS, "train/NORMAL/PNEUMONIA/x.jpeg"], "NORMAL/PNEUMONIA is a split or class folder within a class"),
            ([*SPLITS, "train/NORMAL/site/Train/x.jpeg"], "site/Train is a split or class folder within a class"),
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
    """How files get to `out`."""

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

    def test_the_users_files_keep_permissions_and_content(self, tmp_path: Path, out: Path):
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

    def test_leftovers_of_an_interrupted_run_do_not_mix_in(self, tmp_path: Path, out: Path):
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
