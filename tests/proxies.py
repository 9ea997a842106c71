"""A reverse proxy that does what the nginx configuration in docs/serving.md says."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests
from projects import ROOT

KEPT = ("content-type", "content-security-policy", "www-authenticate")


@contextmanager
def proxying(service: str, name: str) -> Iterator[str]:
    """Yield the address below which the service is mounted; `name` is that of the proxy, as its clients know it."""
    (config,) = re.findall("```nginx\n(.*?)```", (ROOT / "docs/serving.md").read_text(), re.DOTALL)
    (prefix,) = re.findall("location (/\\S+/) {", config)
    assert re.findall(
        "proxy_pass http://[^/]*/;", config
    )  # with a path, even /, nginx puts it in the place of `prefix`
    headers = dict(re.findall(r"proxy_set_header (\S+) (\S+);", config))
    assert set(headers.values()) <= {"$host"}

    class Handler(BaseHTTPRequestHandler):
        def do(self) -> None:
            passed = {key: value for key, value in self.headers.items() if key.lower() not in ("host", "connection")}
            passed |= {key: name for key in headers}
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.removeprefix(prefix)
            found = 404 if path == self.path else requests.request(
                self.command, service + path, headers=passed, data=body, allow_redirects=False, timeout=90
            )  # fmt: skip
            if isinstance(found, int):
                return self.send_error(found)
            self.send_response(found.status_code)
            for key, value in found.headers.items():
                if key.lower() in KEPT:
                    self.send_header(key, value)
            self.send_header("Content-Length", str(len(found.content)))
            self.end_headers()
            self.wfile.write(found.content)

        do_GET = do_POST = do  # noqa: N815  # names that http.server expects

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}{prefix}"
        server.shutdown()
        thread.join()
