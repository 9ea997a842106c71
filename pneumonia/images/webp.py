"""Check the header of a WebP before it is decoded. Source of the format: RFC 9649."""

from struct import unpack_from

from pneumonia.images.refusal import check_size, refuse

ANIMATED = 2  # a flag


def check_webp(content: bytes) -> None:
    """Refuse an animation, or an image of too many pixels: the decoder reserves memory when it opens a file.

    Raises:
        struct.error: it is truncated.
    """
    kind, data = content[12:16], 20
    if kind == b"VP8X":
        flags, wide, high = content[data], content[data + 4 : data + 7], content[data + 7 : data + 10]
        width, height = int.from_bytes(wide, "little") + 1, int.from_bytes(high, "little") + 1
        if flags & ANIMATED:
            refuse("an animation instead of one image")
    elif kind == b"VP8L":
        (packed,) = unpack_from("<I", content, data + 1)
        width, height = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    else:
        width, height = (side & 0x3FFF for side in unpack_from("<HH", content, data + 6))
    check_size(width, height, 4, len(content))
