"""Check the chunks of a PNG before it is decoded. Source of the format: https://www.w3.org/TR/png-3/"""

from struct import unpack_from

from pneumonia.images.refusal import refuse

MAX_CHUNKS = 1000  # of other things than pixels


def check_png(content: bytes) -> int | None:
    """Refuse an animation, and metadata that unpacks without end.

    Returns:
        The significant bits of the first channel, where the file states them (chunk sBIT).
    """
    place, bits, others = 8, None, []
    while place + 8 <= len(content):
        size, name = unpack_from(">I4s", content, place)
        if name == b"IEND":  # decoders ignore what follows
            break
        if name == b"acTL" and size == 8 and unpack_from(">I", content, place + 8)[0] != 1:
            refuse("an animation instead of one image")
        if name == b"sBIT" and size:
            bits = content[place + 8]
        if name != b"IDAT":
            others.append(name)
        if len(others) > MAX_CHUNKS or others.count(b"iCCP") > 1:
            refuse("too many chunks of metadata")
        place += 12 + size
    return bits
