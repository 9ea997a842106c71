"""Restrict Gradio to what the page needs."""

import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Everything else of Gradio stays shut: it writes uploads to disk, serves files, fetches any URL for a caller, and
# accepts calls that bypass the queue.
OPEN = re.compile(
    r"/|/(assets|static)/.+|/theme\.css|/favicon\.ico|/manifest\.json|/gradio_api/(app_id|queue/join|queue/data)"
)
# Gradio compiles its templates.
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval'; img-src 'self' data:; frame-ancestors 'none'"

MAX_BRACKETS = 1000  # in what the page posts, an image and a few fields: a body of brackets takes seconds to parse


class Gate:
    """ASGI middleware in front of Gradio: pass on only what the page requests, and let the page contact nobody else.

    Args:
        app: Gradio's app.
        max_bytes: largest request body.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Content-Security-Policy"] = POLICY
            await send(message)

        length = Headers(scope=scope).get("content-length", "0" if scope["method"] != "POST" else "none")
        app = self.app
        if not OPEN.fullmatch(scope["path"].removeprefix(scope.get("root_path", ""))):
            app = JSONResponse({"detail": "Not Found"}, 404)
        elif not length.isdecimal() or int(length) > self.max_bytes:
            app = JSONResponse({"detail": f"Expected Content-Length of at most {self.max_bytes}."}, 413)
        elif scope["method"] == "POST":
            body, more = bytearray(), True
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    return
                body += message.get("body", b"")
                more = message.get("more_body", False)
            if body.count(b"[") + body.count(b"{") > MAX_BRACKETS:
                app = JSONResponse({"detail": "Expected one image in base64."}, 422)
            receive = _replay(bytes(body), receive)
        await app(scope, receive, send_with_policy)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that starts with a body that was read already."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return first.pop() if first else await receive()

    return replay
