"""Uploads: valid images, and what clients send by mistake or in bad faith."""

import zlib
from collections.abc import Iterator
from struct import pack

import numpy as np
from dicoms import encode, make, wrap, write
from numpy.random import default_rng
from pictures import encode as save
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom import uid

from pneumonia.sources.phantom import draw_chest, expose

IMAGES = [expose(default_rng(n), draw_chest(default_rng(n), default_rng(n + 9), (60, 70), "")) for n in range(6)]
JPEGS = [save(Image.fromarray(image), "jpeg") for image in IMAGES]
PNG, DICOM = save(Image.fromarray(IMAGES[0])), encode(IMAGES[0])
MULTIPART = {"Content-Type": "multipart/form-data; boundary=b"}
PART = b'--b\r\nContent-Disposition: form-data; name="files"; filename="x"\r\n\r\n' + PNG + b"\r\n"


def chunk(kind: bytes, data: bytes) -> bytes:
    return pack(">I", len(data)) + kind + data + pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 0) -> bytes:
    header = chunk(b"IHDR", pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def damage(content: bytes, rng: np.random.Generator) -> bytes:
    """Return a file truncated, or with a few bits flipped, mostly in its header."""
    if rng.random() < 0.3:
        return content[: int(rng.integers(1, len(content)))]
    damaged = bytearray(content)
    for _ in range(int(rng.integers(1, 12))):
        place = int(rng.integers(0, len(content) if rng.random() < 0.4 else min(400, len(content))))
        damaged[place] ^= 1 << int(rng.integers(0, 8))
    return bytes(damaged)


def make_files() -> Iterator[bytes]:
    """Yield files, few of which are images."""
    rng = default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
    pixels, bomb = zlib.compress(bytes(60 * 61)), zlib.compress(bytes(20_000_000), 9)
    for content in (JPEGS[0], PNG, DICOM, save(rgb, "jpeg", progressive=True, exif=b"Exif\0\0II*\0" + bytes(40))):
        yield from (damage(content, rng) for _ in range(28))
    yield from (save(rgb, kind) for kind in ("gif", "bmp", "tiff", "webp", "ico", "ppm", "tga"))
    yield from (save(rgb.convert(mode), "jpeg") for mode in ("CMYK", "1"))
    yield from (save(rgb.convert(mode)) for mode in ("P", "LA", "RGBA", "1"))
    yield save(Image.fromarray(np.full((50, 50), 40_000, np.uint16)))
    yield save(rgb, "png", save_all=True, append_images=[rgb.rotate(90)] * 3)
    yield from (save(rgb, kind, icc_profile=b"/etc/passwd" * 9) for kind in ("png", "jpeg"))
    texts = PngInfo()
    texts.add_text("Comment", "x" * 20_000_000, zip=True)
    yield save(rgb, pnginfo=texts)
    yield from (png(60, 60, chunk(kind, b"x\0\0" + bomb), chunk(b"IDAT", pixels)) for kind in (b"zTXt", b"iCCP"))
    yield png(60, 60, chunk(b"iTXt", b"x\0\1\0\0\0" + bomb), chunk(b"IDAT", pixels))
    yield from (png(side, side, chunk(b"IDAT", bomb)) for side in (0, 60, 8001, 2**16, 2**31 - 1))
    yield png(60, 60, *[chunk(b"tEXt", b"k\0v")] * 20_000, chunk(b"IDAT", pixels))
    unknown = ((3, 0), (8, 5), (16, 3), (255, 255))
    yield from (png(60, 60, chunk(b"IDAT", pixels), depth=depth, colour=colour) for depth, colour in unknown)
    yield JPEGS[0].replace(pack(">HH", 60, 70), pack(">HH", 65535, 65535))
    yield JPEGS[0].replace(pack(">HH", 60, 70), pack(">HH", 0, 0))
    yield from (encode(IMAGES[0], Rows=rows, Columns=rows) for rows in (0, 1, 65535))
    yield encode(IMAGES[0], WindowCenter="1e308", WindowWidth="-1", PatientName="/etc/passwd")
    yield encode(IMAGES[0], PixelData=None)
    yield wrap(b"\xff\xd8", uid.JPEGBaseline8Bit, IMAGES[0])
    deflated = write(make(IMAGES[0]), uid.DeflatedExplicitVRLittleEndian)
    yield deflated[:-20] + bomb
    yield bytes(128) + b"DICM"
    yield b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    yield from (b"<!doctype html><script>alert(1)</script>", b"%PDF-1.7\n", b"\x7fELF", b"PK\3\4" + bomb,
                b"\x1f\x8b" + bomb, b"", b"\0", b"\n" * 9, b"/etc/passwd", bytes(100_000), bomb,
                "\u202ex".encode("utf-16"), b"\xff\xd8\xff")  # fmt: skip


def make_bodies() -> Iterator[tuple[dict[str, bytes], bytes]]:
    """Yield headers and bodies of requests, few of which are forms with an image."""
    rng, kind = default_rng(1), MULTIPART["Content-Type"].encode()

    def part(disposition: bytes, content: bytes = PNG, more: bytes = b"") -> bytes:
        head = b"--b\r\nContent-Disposition: form-data; " + disposition + more
        return head + b"\r\n\r\n" + content + b"\r\n--b--\r\n"

    names = (b"../../etc/passwd", b"C:\\x.png", b"x\0.png", b"%s%n", b"'; drop table", "фильм\u202e".encode(),
             b"\xff\xfe", b"", b"a" * 5000, b'x"; filename="y')  # fmt: skip
    for name in names:
        yield {"content-type": kind}, part(b'name="files"; filename="' + name + b'"')
        yield {"content-type": kind}, part(b'name="' + name + b'"; filename="x"')
    yield {"content-type": kind}, part(b"name=files; filename*=utf-8''%2e%2e%2fetc%2fpasswd")
    yield {"content-type": kind}, part(b'name="files"; filename="x"', more=b"\r\nContent-Transfer-Encoding: base64")
    yield {"content-type": kind}, part(b'name="files"; filename="x"', more=b"\r\nContent-Encoding: gzip")
    yield {"content-type": kind}, part(b'name="files"; filename="x"', more=b"\r\nX: y" * 200)
    yield {"content-type": kind}, part(b'name="files"; filename="x"', more=b"\r\nX" * 50)
    yield {"content-type": kind}, part(b'name="files"; filename="x"', more=b"\r\n: " + b"y" * 9000)
    inner = b"\r\nContent-Type: multipart/mixed; boundary=c"
    yield {"content-type": kind}, part(b'name="files"', b"--c\r\n\r\n" + PNG + b"\r\n--c--", inner)
    yield {"content-type": kind}, part(b'name="files"; filename="x"', part(b'name="files"; filename="y"'))
    yield {"content-type": kind, "content-encoding": b"gzip"}, zlib.compress(part(b'name="files"; filename="x"'))
    whole = part(b'name="files"; filename="x"')
    yield from (({"content-type": kind}, damage(whole, rng)) for _ in range(20))
    bodies = (b"", b"--", b"--b", b"--b\r\n", b"\r\n" * 999, b"--b\r\n" * 999)
    yield from (({"content-type": kind}, body) for body in bodies)
    for boundary in (b"", b'"', b"b" * 300, b"\xff", b'"b', b"b; boundary=c", b"b, multipart/mixed", b" b ", b"b\t",
                     b"\0"):  # fmt: skip
        yield {"content-type": b"multipart/form-data; boundary=" + boundary}, whole
    yield from (({"content-type": kind + b"; charset=" + charset}, whole) for charset in (b"\xff", b"rot13", b"utf-16"))
    others = (b"", b";", b"multipart", b"multipart/mixed; boundary=b", b"application/x-www-form-urlencoded",
              b"text/html")  # fmt: skip
    yield from (({"content-type": other}, whole) for other in others)
    yield {"content-type": kind, "content-length": b"x"}, whole
    yield {"content-type": kind, "content-length": b"-1"}, whole
    yield {"content-type": kind, "content-length": b"9" * 5000}, whole
