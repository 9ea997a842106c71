"""An array on disk that grows row by row; rows are found by the SHA-256 of what they were computed from."""

import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pneumonia.core.files import locked, remove_unless_locked
from pneumonia.core.runtime import map_threads

_ENTRY = np.dtype([("key", "V32"), ("crc", "<u4")])


class RowStore:
    """Float32 rows in the file `rows`; key and checksum of each in the file `index`.

    A row counts once its entry is in the index: what a killed process left beyond it is overwritten by the next.
    A row whose checksum differs counts as unknown. Call every method while `locked`.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...]) -> None:
        """Describe a store without reading or writing it.

        Args:
            folder: of this store; its siblings are the other stores that share one limit.
            shape: of a row.
        """
        self.folder, self.shape, self.row_bytes = folder, shape, 4 * prod(shape)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock this store against other processes, and mark it as used now."""
        with locked(self.folder, "computing these activations"):
            self.folder.mkdir(exist_ok=True)
            os.utime(self.folder)  # used now
            yield

    def find(self, keys: Sequence[bytes]) -> npt.NDArray[np.int64]:
        """Return each key's row number, (n,); -1 where there is no intact row."""
        entries = self._read_index()
        known = {key: row for row, key in enumerate(entries["key"].tolist())}
        rows = np.array([known.get(key, -1) for key in keys], np.int64)
        wanted = np.unique(rows[rows >= 0])
        broken = wanted[self._checksum(wanted) != entries["crc"][wanted]]
        rows[np.isin(rows, broken)] = -1
        return rows

    def append(self, keys: Sequence[bytes], rows: npt.NDArray[np.float32]) -> None:
        """Append rows (n, *shape) under their keys."""
        start = len(self._read_index())
        entries = np.array([(key, zlib.crc32(row)) for key, row in zip(keys, rows, strict=True)], _ENTRY)
        _write_at(self.folder / "rows", start * self.row_bytes, np.ascontiguousarray(rows, np.float32).data)
        _write_at(self.folder / "index", start * _ENTRY.itemsize, entries.tobytes())

    def open(self) -> npt.NDArray[np.float32]:
        """Return all rows as a read-only memory map, (n, *shape); it stays readable when the store is removed."""
        path = self.folder / "rows"
        whole = path.stat().st_size // self.row_bytes if path.exists() else 0
        if whole == 0:
            return np.empty((0, *self.shape), np.float32)  # an empty file cannot be mapped
        return np.memmap(path, np.float32, "r", shape=(whole, *self.shape))

    def make_room(self, new: int, wanted: int, limit: float) -> bool:
        """Make room for `new` rows: empty this store if they do not fit otherwise, then remove the least recently used.

        Args:
            new: number of rows to come.
            wanted: number of rows in use at once, those to come included; they must fit.
            limit: bytes that all stores together may take.

        Returns:
            Whether this store was emptied.
        """
        needed = _count_bytes(self.folder) + new * self.row_bytes
        if emptied := needed > limit:
            for path in self.folder.iterdir():
                path.unlink()
            needed = wanted * self.row_bytes
        others = sorted({path for path in self.folder.parent.glob("*/")} - {self.folder}, key=_last_used)
        sizes = {other: _count_bytes(other) for other in others}
        for other in others:
            if needed + sum(sizes.values()) > limit and remove_unless_locked(other):
                del sizes[other]
        return emptied

    def _read_index(self) -> npt.NDArray[np.void]:
        index = self.folder / "index"
        return np.fromfile(index, _ENTRY) if index.exists() else np.empty(0, _ENTRY)

    def _checksum(self, wanted: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
        with (self.folder / "rows").open("ab+") as file:

            def read(row: int) -> int:
                return zlib.crc32(os.pread(file.fileno(), self.row_bytes, row * self.row_bytes))

            return np.array(map_threads(read, wanted.tolist(), desc="check"), np.uint32)


def _write_at(path: Path, offset: int, content: bytes | memoryview) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o666), "wb") as file:
        file.seek(offset)
        file.write(content)


# Another process, or `make clean-cache`, may remove a folder at any time.
def _last_used(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _count_bytes(folder: Path) -> int:
    try:
        return sum(path.stat().st_size for path in folder.iterdir())
    except FileNotFoundError:
        return 0
