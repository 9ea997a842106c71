"""Check the segments of a JPEG before it is decoded. Source of the format: ITU-T T.81, annex B."""

import re
from collections.abc import Iterator

from pneumonia.images.refusal import MAX_PIXELS, check_work, refuse

MAX_SCANS, MAX_SEGMENTS = 100, 1000  # a progressive JPEG has about ten scans, and a file with metadata fifty segments
END, SCAN, PRESETS = 0xD9, 0xDA, 0xF8
FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
# What one sequential, lossless or JPEG-LS image needs. Others define a second image, or its height afterwards.
_PLAIN = {0xC0, 0xC1, 0xC3, 0xF7, 0xC4, SCAN, 0xDB, 0xDD, PRESETS, *range(0xE0, 0xF0), 0xFE} - {0xEB}
# In coded data, zero or the number of a restart follows 0xff; in JPEG-LS, a byte below 0x80.
_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])")


def list_segments(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield marker and content of each segment up to the end of the first image."""
    place = 2
    while (found := _MARKER.search(stream, place)) and found[1][0] != END:
        size = int.from_bytes(stream[found.end() : found.end() + 2])
        place = found.end() + size
        yield found[1][0], stream[found.end() + 2 : place]


def check_jpeg(stream: bytes, max_scans: int = MAX_SCANS) -> bytes:
    """Refuse a JPEG of so many scans or segments that decoding takes minutes.

    Returns:
        Its EXIF block, empty where it has none.
    """
    scans, pixels, exif = 0, 0, b""
    for number, (marker, content) in enumerate(list_segments(stream)):
        scans += marker == SCAN
        if marker in FRAMES:
            pixels = int.from_bytes(content[1:3]) * int.from_bytes(content[3:5])
        if marker == 0xE1 and content.startswith(b"Exif\0\0"):
            exif += content[6:]
        if number >= MAX_SEGMENTS or scans > max_scans or scans * pixels > 10 * MAX_PIXELS:
            refuse(f"too many JPEG scans or segments: at most {max_scans} and {MAX_SEGMENTS}, fewer in large images")
    check_work(scans * pixels / 4)  # a scan of a progressive image adds part of its detail
    return exif


def check_plain_jpeg(stream: bytes, width: int, height: int, samples: int) -> None:
    """Refuse a JPEG inside DICOM unless it is one image of the header's size, coded in one pass."""
    frames, scans = [], 0
    for marker, content in list_segments(stream):
        if marker not in _PLAIN or (marker == PRESETS and content[:1] != b"\1"):
            refuse(f"a JPEG with the unexpected marker ff{marker:02x}")
        scans += marker == SCAN
        frames += [content] if marker in FRAMES else []
        if scans > samples:
            refuse("a JPEG of more scans than components")
    expected = height.to_bytes(2) + width.to_bytes(2) + bytes([samples])
    if [frame[1:6] for frame in frames] != [expected]:
        refuse("a JPEG whose size is not that of the DICOM header")
