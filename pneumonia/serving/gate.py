"""Restrict Gradio to the files of the page."""

import re

from starlette.datastructures import MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Everything else of Gradio stays shut: it queues calls and keeps their answers, writes uploads to disk, serves files
# and fetches any URL for a caller. The page asks routes of ours instead.
OPEN = re.compile(r"/(assets|static)/.+|/theme\.css|/favicon\.ico|/gradio_api/app_id")
# Gradio compiles its templates.
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval'; img-src 'self' data:; frame-ancestors 'none'"


class Gate:
    """ASGI middleware in front of Gradio: serve the page and its files only, and let the page contact nobody else.

    Args:
        app: Gradio's app.
        page: HTML of the page.
    """

    def __init__(self, app: ASGIApp, page: str) -> None:
        self.app, self.page = app, HTMLResponse(page)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Content-Security-Policy"] = POLICY
            await send(message)

        app, path = PlainTextResponse("Not Found", 404), scope["path"]
        if scope["method"] in ("GET", "HEAD"):
            app = self.page if path == "/" else self.app if OPEN.fullmatch(path) else app
        await app(scope, receive, send_with_policy)
