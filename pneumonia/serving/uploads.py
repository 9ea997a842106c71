"""Read the files of a multipart form into memory."""

import math
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request


class _FormError(MultiPartException):
    """A form that is refused for a reason of ours, in words for the sender."""


class _Form(MultiPartParser):
    """Keep every file in memory, where it cannot outlive the request; refuse excess parts and truncated forms."""

    spool_max_size = 0  # of SpooledTemporaryFile: never roll over to disk

    def __init__(self, request: Request, max_files: int) -> None:
        # Parts are counted here; `Guard` bounds the bytes of the whole body.
        unlimited = {"max_files": math.inf, "max_fields": math.inf, "max_part_size": sys.maxsize}
        super().__init__(request.headers, self._read(request.stream()), **unlimited)
        self.most, self.parts, self.ended = max_files, 0, False

    def on_part_begin(self) -> None:
        super().on_part_begin()
        self.parts += 1
        if self.parts > self.most:
            raise _FormError(f"More than {self.most} files.")

    def on_end(self) -> None:
        self.ended = True

    async def _read(self, stream: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async with aclosing(stream):
            async for chunk in stream:
                yield chunk
        if not self.ended:  # the parser would silently drop the last file, which was cut off
            raise _FormError("Truncated multipart/form-data: the closing boundary is missing.")


async def read_files(request: Request, max_files: int) -> list[bytes]:
    """Return the contents of the uploaded files, in the order given.

    Raises:
        HTTPException: 415 unless the request is multipart/form-data; 422 unless the form is well-formed and consists
            of 1 to `max_files` files in the field `files`.
    """
    kind, _ = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data":
        raise HTTPException(415, "Expected multipart/form-data with images in the field `files`.")
    parser = _Form(request, max_files)
    try:
        async with aclosing(parser.stream):
            form = await parser.parse()
    except _FormError as error:
        raise HTTPException(422, error.message) from None
    except MultiPartException:
        raise HTTPException(422, "Malformed multipart/form-data.") from None
    try:
        items = form.multi_items()
        files = [value for name, value in items if name == "files" and isinstance(value, UploadFile)]
        if not files or len(files) < len(items):
            raise HTTPException(422, "Expected images in the field `files`, and nothing else.")
        return [await file.read() for file in files]
    finally:
        await form.close()
