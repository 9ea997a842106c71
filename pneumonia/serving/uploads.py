"""Read the files of a form into memory."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request


class _Form(MultiPartParser):
    """Keep all files in memory, where they are gone for sure, and refuse a form that does not come to its end."""

    spool_max_size = 0  # of SpooledTemporaryFile: never on disk
    ended = False

    def __init__(self, request: Request, max_files: int) -> None:
        super().__init__(request.headers, self._read(request.stream()), max_files=max_files, max_fields=0)

    def on_end(self) -> None:
        self.ended = True

    async def _read(self, stream: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async with aclosing(stream):
            async for chunk in stream:
                yield chunk
        if not self.ended:  # else the last file, which was cut off, would be missing and nobody the wiser
            raise MultiPartException("Truncated")


async def read_files(request: Request, max_files: int) -> list[bytes]:
    """Return what the files of a form hold, in the order given.

    Raises:
        HTTPException: it is no form (415), or has other parts than 1 to `max_files` files named `files` (422).
    """
    kind, _ = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data":
        raise HTTPException(415, "Expected multipart/form-data with images in the field `files`.")
    parser = _Form(request, max_files)
    try:
        async with aclosing(parser.stream):
            form = await parser.parse()
    except MultiPartException as error:
        known = {"Too many files": f"More than {max_files} files.", "Too many fields": "A part that is no file.",
                 "Truncated": "Truncated multipart/form-data: there is no closing boundary."}  # fmt: skip
        detail = next((text for start, text in known.items() if error.message.startswith(start)), "")
        raise HTTPException(422, detail or "Malformed multipart/form-data.") from None
    files = [value for name, value in form.multi_items() if name == "files" and isinstance(value, UploadFile)]
    try:
        if not files or len(files) < len(form.multi_items()):
            raise HTTPException(422, "Expected images in the field `files`, and no other field.")
        return [await file.read() for file in files]
    finally:
        await form.close()
