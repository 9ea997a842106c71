"""Check a zip archive by its directory, before anything in it is unpacked."""

from pathlib import Path
from zipfile import ZipFile


def check_archive(path: Path, most: dict[str, int]) -> None:
    """Check names and sizes of the members of an archive.

    Args:
        path: of the archive.
        most: bytes of each member that must be there and no other may.

    Raises:
        ValueError: it holds other members, one of them twice, or too much.
        OSError, zipfile.BadZipFile: it cannot be read.
    """
    with ZipFile(path) as archive:
        members = archive.infolist()
    if sorted(member.filename for member in members) != sorted(most):
        raise ValueError(f"it holds {[member.filename for member in members][:8]}, not {list(most)}")
    for member in members:
        if member.file_size > min(most[member.filename], 1000 + 100 * member.compress_size):
            raise ValueError(f"{member.filename} unpacks to {member.file_size:,} bytes")
