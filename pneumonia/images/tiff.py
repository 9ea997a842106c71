"""Check the directory of a TIFF before it is decoded, and of EXIF, which is one.

Source of the format: TIFF 6.0, https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf
"""

from dataclasses import dataclass
from struct import error, unpack_from

from pneumonia.images.jpeg import check_jpeg
from pneumonia.images.refusal import check_size, refuse

MAX_TAGS, MAX_PARTS = 500, 100_000  # of a directory; strips or tiles of an image
COMPRESSION, ORIENTATION, TILE_WIDTH, TILE_LENGTH = 259, 274, 322, 323
_PARTS = {273: 279, 324: 325}  # strips and tiles: where they start, and how long they are
_NESTED = (34665, 34853, 40965)  # EXIF, GPS and interoperability have directories of their own
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_CODES = {3: "H", 4: "I", 13: "I", 16: "Q"}  # of the types that count something
_NONE, _JPEG, _COMPONENTS = 1, 7, 4
# None, CCITT, LZW, JPEG, Deflate, PackBits. Nobody stores radiographs in the others, and libtiff's are old code.
_COMPRESSIONS = {_NONE, 2, 3, 4, 5, _JPEG, 8, 32773, 32946}


@dataclass(frozen=True)
class Directory:
    """A directory: the tags that count something as numbers, and the place of the next one, 0 for none."""

    tags: dict[int, tuple[int, ...]]
    next: int

    def first(self, tag: int, otherwise: int) -> int:
        """Return the first number of a tag."""
        return (self.tags.get(tag) or (otherwise,))[0]


def read_directory(stream: bytes, place: int | None = None) -> Directory:
    """Read the first directory, or the one at `place`, and refuse it if reading its values takes too long.

    Raises:
        struct.error: it is truncated.
    """
    order, big = "<" if stream[:2] == b"II" else ">", stream[2:4] in (b"\x2b\0", b"\0\x2b")
    head, number, width, step = ("Q", "Q", 8, 20) if big else ("H", "I", 4, 12)
    start = unpack_from(order + number, stream, width)[0] if place is None else place
    (count,) = unpack_from(order + head, stream, start)
    if count > MAX_TAGS:
        refuse(f"{count:,} tags instead of {MAX_TAGS} at most")
    first, tags, total = start + (8 if big else 2), {}, 0
    for at in range(first, first + count * step, step):
        tag, kind, values = unpack_from(order + "HH" + number, stream, at)
        size, start = values * _SIZES.get(kind, 1), at + 4 + width
        if size > width:
            (start,) = unpack_from(order + number, stream, start)
        total += max(0, min(size, len(stream) - start))
        if kind in _CODES and start + size <= len(stream) and values <= MAX_PARTS:
            tags[tag] = unpack_from(f"{order}{values}{_CODES[kind]}", stream, start)
        elif tag in (*_PARTS, *_PARTS.values()) and values > MAX_PARTS:
            refuse(f"{values:,} strips or tiles instead of {MAX_PARTS:,} at most")
    if total > 4 * len(stream) + 2**16:
        refuse("tags that are larger than the file")
    return Directory(tags, unpack_from(order + number, stream, first + count * step)[0])


def read_orientation(exif: bytes) -> int:
    """Return the orientation that an EXIF block states, 1 to 8; 1 where it states none or is damaged."""
    exif = exif.removeprefix(b"Exif\0\0")
    try:
        stated = read_directory(exif).first(ORIENTATION, 1) if exif[:2] in (b"II", b"MM") else 1
    except error:
        return 1
    return stated if 1 <= stated <= 8 else 1


def check_tiff(content: bytes) -> None:
    """Refuse a TIFF of several pages, of an uncommon compression, or of tags or tiles out of proportion."""
    page = read_directory(content)
    if page.next:
        refuse("several pages instead of one: export the page as a file of its own")
    for nested in _NESTED:
        if nested in page.tags:
            inner = read_directory(content, page.first(nested, 0))
            if _NESTED[-1] in inner.tags:
                read_directory(content, inner.first(_NESTED[-1], 0))
    compression = page.first(COMPRESSION, _NONE)
    if compression not in _COMPRESSIONS:
        refuse(f"TIFF compression {compression} is not supported: save it with LZW, Deflate or none")
    check_size(page.first(TILE_WIDTH, 1), page.first(TILE_LENGTH, 1), 4, len(content))
    if compression != _NONE:
        _check_parts(content, page)


def _check_parts(content: bytes, page: Directory) -> None:
    for starts, lengths in _PARTS.items():
        if sum(page.tags.get(lengths, ())) > 2 * len(content):
            refuse("strips or tiles that are larger than the file")
        if page.first(COMPRESSION, _NONE) == _JPEG:
            for start, length in zip(page.tags.get(starts, ()), page.tags.get(lengths, ()), strict=False):
                check_jpeg(content[start : start + length], max_scans=_COMPONENTS)
