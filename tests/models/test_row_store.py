"""A row that was written whole is found again; anything else on disk is ignored."""

import errno
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pneumonia.models import row_store as row_store
from pneumonia.models.row_store import RowStore

SHAPE = (5, 100)
ROW_BYTES = 4 * 5 * 100
ENTRY_BYTES = 32 + 4
KEYS = [sha256(bytes([number])).digest() for number in range(8)]
ROWS = np.random.default_rng(0).normal(size=(8, *SHAPE)).astype(np.float32)


@pytest.fixture
def stores(tmp_path: Path) -> Path:
    return tmp_path / "stores"


@contextmanager
def opened(folder: Path) -> Iterator[RowStore]:
    """Open a store as another process would that comes to it later."""
    store = RowStore(folder, SHAPE)
    with store.locked():
        yield store


def append(folder: Path, *numbers: int) -> None:
    with opened(folder) as store:
        store.append([KEYS[number] for number in numbers], ROWS[list(numbers)])


def find(folder: Path, keys: Sequence[bytes] = tuple(KEYS)) -> list[int]:
    """Return the keys' numbers in KEYS, -1 for those unknown, after a look at what each row holds."""
    with opened(folder) as store:
        rows = store.find(keys)
        array = store.open() if (rows >= 0).any() else np.empty((0, *SHAPE))
    for key, row in zip(keys, rows, strict=True):
        assert row < 0 or array[row].tobytes() == ROWS[KEYS.index(key)].tobytes()
    return [KEYS.index(key) if row >= 0 else -1 for key, row in zip(keys, rows, strict=True)]


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def truncate(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


def add_garbage(path: Path, size: int) -> None:
    with path.open("ab") as file:
        file.write(np.random.default_rng(1).bytes(size))


def set_last_used(folder: Path, seconds: float) -> None:
    for path in (folder, *folder.iterdir()):
        os.utime(path, (seconds, seconds))


def test_a_row_is_found_by_its_key_and_no_other_is(stores: Path):
    append(stores / "a", 0, 1, 2)
    append(stores / "a", 5)
    assert find(stores / "a") == [0, 1, 2, -1, -1, 5, -1, -1]


def test_a_new_store_knows_nothing(stores: Path):
    assert find(stores / "a") == [-1] * 8


def test_rows_are_found_in_the_order_of_the_keys_that_are_asked_for(stores: Path):
    append(stores / "a", 0, 1, 2, 3)
    assert find(stores / "a", [KEYS[number] for number in (3, 0, 3, 2)]) == [3, 0, 3, 2]


def test_keys_that_differ_in_their_last_byte_only_are_told_apart(stores: Path):
    zero, one = KEYS[0][:-2] + b"\0\0", KEYS[0][:-2] + b"\0\1"
    with opened(stores / "a") as store:
        store.append([zero], ROWS[:1])
        assert store.find([one, zero, KEYS[0][:-2]]).tolist() == [-1, 0, -1]


def test_rows_lie_on_disk_and_cannot_be_changed(stores: Path):
    append(stores / "a", 0)
    with opened(stores / "a") as store:
        array = store.open()
    assert isinstance(array, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


@pytest.mark.parametrize("name, size", [("rows", 7), ("rows", ROW_BYTES), ("index", 7), ("index", ENTRY_BYTES + 7)])
def test_leftovers_of_a_killed_write_do_not_count_and_are_overwritten(stores: Path, name: str, size: int):
    append(stores / "a", 0, 1)
    add_garbage(stores / "a" / name, size)
    assert find(stores / "a") == [0, 1, *[-1] * 6]
    append(stores / "a", 2, 3)
    assert find(stores / "a") == [0, 1, 2, 3, *[-1] * 4]


@pytest.mark.parametrize(
    "name, offset", [("rows", ROW_BYTES), ("rows", 2 * ROW_BYTES - 1), ("index", ENTRY_BYTES), ("index", 71)]
)
def test_a_row_with_a_flipped_bit_is_unknown_until_it_is_rewritten(stores: Path, name: str, offset: int):
    append(stores / "a", 0, 1, 2)
    flip(stores / "a" / name, offset)
    assert find(stores / "a", KEYS[:3]) == [0, -1, 2]
    append(stores / "a", 1)
    assert find(stores / "a", KEYS[:3]) == [0, 1, 2]


@pytest.mark.parametrize("name, size", [("rows", 2 * ROW_BYTES - 1), ("index", 2 * ENTRY_BYTES - 1)])
def test_rows_beyond_the_end_of_a_truncated_file_are_unknown_until_they_are_rewritten(
    stores: Path, name: str, size: int
):
    append(stores / "a", 0, 1, 2)
    truncate(stores / "a" / name, size)
    assert find(stores / "a", KEYS[:3]) == [0, -1, -1]
    append(stores / "a", 2)
    assert find(stores / "a", KEYS[:3]) == [0, -1, 2]


@pytest.mark.parametrize("name", ["rows", "index"])
def test_a_store_with_one_file_missing_is_empty_and_can_be_filled_again(stores: Path, name: str):
    append(stores / "a", 0, 1)
    (stores / "a" / name).unlink()
    assert find(stores / "a") == [-1] * 8
    append(stores / "a", 1)
    assert find(stores / "a", KEYS[:2]) == [-1, 1]


@pytest.mark.parametrize("name", ["rows", "index"])
def test_rows_stay_readable_when_the_disk_is_full(stores: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    append(stores / "a", 0, 1)
    whole = row_store._write_at

    def write_half(path: Path, offset: int, content: Any) -> None:
        if path.name != name:
            return whole(path, offset, content)
        whole(path, offset, bytes(content)[: len(bytes(content)) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(row_store, "_write_at", write_half)
        append(stores / "a", 2, 3, 4)
    assert find(stores / "a", KEYS[:2]) == [0, 1]
    append(stores / "a", 2, 3)
    assert find(stores / "a", KEYS[:4]) == [0, 1, 2, 3]


def test_the_least_recently_used_store_is_removed_first(stores: Path):
    for second, name in enumerate("bcd"):
        append(stores / name, 0, 1)
        set_last_used(stores / name, second)
    find(stores / "b", KEYS[:1])
    with opened(stores / "a") as store:
        assert not store.make_room(2, 2, limit=7 * ROW_BYTES)
    assert find(stores / "b")[:2] == [0, 1]
    assert find(stores / "c")[:2] == [-1, -1]
    assert find(stores / "d")[:2] == [0, 1]


def test_nothing_is_removed_as_long_as_all_fits(stores: Path):
    for name in "ab":
        append(stores / name, 0, 1)
    with opened(stores / "a") as store:
        assert not store.make_room(2, 4, limit=7 * ROW_BYTES)
    assert find(stores / "a")[:2] == find(stores / "b")[:2] == [0, 1]


def test_a_store_that_another_process_uses_is_left_alone(stores: Path):
    for second, name in enumerate("bc"):
        append(stores / name, 0, 1)
        set_last_used(stores / name, second)
    with opened(stores / "b"), opened(stores / "a") as store:
        store.make_room(2, 2, limit=4 * ROW_BYTES)
    assert find(stores / "b")[:2] == [0, 1]
    assert find(stores / "c")[:2] == [-1, -1]


def test_a_store_too_large_by_itself_is_emptied_for_the_rows_in_use(stores: Path):
    append(stores / "a", 0, 1, 2)
    append(stores / "b", 0)
    with opened(stores / "a") as store:
        assert store.make_room(2, 3, limit=4.5 * ROW_BYTES)
    assert find(stores / "a") == [-1] * 8
    assert find(stores / "b")[:1] == [0]


@pytest.mark.parametrize("emptied", [False, True])
def test_an_array_stays_readable_after_its_store_was_removed_or_filled_anew(stores: Path, emptied: bool):
    append(stores / "b", 0, 1)
    with opened(stores / "b") as store:
        array = store.open()
    with opened(stores / ("b" if emptied else "a")) as store:
        store.make_room(2, 2, limit=2.5 * ROW_BYTES)
    append(stores / "b", 7)
    assert array.tobytes() == ROWS[:2].tobytes()


def test_another_process_may_remove_a_store_while_room_is_made(stores: Path, monkeypatch: pytest.MonkeyPatch):
    for name in "bcd":
        append(stores / name, 0, 1)

    def remove_before(name: str, what: Any) -> Any:
        def run(folder: Path) -> Any:
            shutil.rmtree(stores / name, ignore_errors=True)
            return what(folder)

        return run

    monkeypatch.setattr(row_store, "_last_used", remove_before("b", row_store._last_used))
    monkeypatch.setattr(row_store, "_count_bytes", remove_before("c", row_store._count_bytes))
    monkeypatch.setattr(row_store, "remove_unless_locked", remove_before("d", row_store.remove_unless_locked))
    with opened(stores / "a") as store:
        store.make_room(2, 2, limit=3 * ROW_BYTES)
    assert [path.name for path in stores.glob("*/")] == ["a"]


def test_a_store_whose_removal_was_interrupted_is_removed_later(stores: Path):
    append(stores / "b", 0, 1)
    (stores / "b" / "index").unlink()
    with opened(stores / "a") as store:
        store.make_room(2, 2, limit=3 * ROW_BYTES)
    assert not (stores / "b").exists()


def test_waiting_for_another_process_is_reported(stores: Path, capsys: pytest.CaptureFixture[str]):
    locked, events = threading.Event(), []

    def hold() -> None:
        with opened(stores / "a"):
            locked.set()
            time.sleep(0.5)
            events.append("released")

    thread = threading.Thread(target=hold)
    thread.start()
    locked.wait()
    with opened(stores / "a"):
        events.append("acquired")
    thread.join()
    assert events == ["released", "acquired"]
    assert capsys.readouterr().out == "Another process is computing these activations; waiting for it.\n"
