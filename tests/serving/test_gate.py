"""The page contacts nobody and keeps nothing, and nothing else of Gradio is served."""

import asyncio
import gc
import os
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from dicoms import NARROW, encode
from fastapi import FastAPI
from pages import IMAGE, NOISE, PNG, drop, visiting
from playwright.sync_api import BrowserContext

from pneumonia.serving.batcher import Batcher
from pneumonia.serving.page import mount_page


def test_a_visit_leaves_nothing_on_disk_and_the_server_contacts_nobody(
    browser: BrowserContext, site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    noted: list[Any] = []

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        written = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        contacted = event in ("os.mkdir", "os.rename", "socket.connect", "socket.getaddrinfo", "subprocess.Popen")
        if (written or contacted) and threading.current_thread() is not threading.main_thread() and watching:
            noted.append((event, arguments))

    watching = True
    sys.addaudithook(note)
    threading.Thread(target=(tmp_path / "folder").mkdir).start()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # of a module that nobody has imported yet
    with visiting(browser, site) as page:
        for content in (PNG, encode(IMAGE, **NARROW), b"Dear doctor", NOISE):
            drop(page, content, "roe_jane.png")
            page.locator(".novel" if content == NOISE else ".answer, .warn[role=alert]").first.wait_for()
    watching = False
    assert [event for event, _ in noted] == ["os.mkdir"]  # that of the test, which shows that the audit works
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


def test_the_browser_refuses_to_contact_anybody_else_for_the_page(browser: BrowserContext, site: str):
    elsewhere = site.replace("127.0.0.1", "localhost") + "healthz"
    fetch = f"fetch('{elsewhere}', {{ mode: 'no-cors' }}).then(() => 'fetched', () => 'refused')"
    page = browser.new_page()
    page.goto(site)
    assert page.evaluate(fetch) == "refused"
    page.goto(f"{site}healthz")  # which restricts nothing
    assert page.evaluate(fetch) == "fetched"
    page.close()


def test_no_other_site_may_show_the_page_in_a_frame(site: str):
    assert "frame-ancestors 'none'" in requests.get(site).headers["Content-Security-Policy"]


def test_the_rest_of_the_service_is_served_and_the_rest_of_gradio_is_not(site: str):
    for path in ("", "healthz", "openapi.json", "favicon.ico", "page/model"):
        assert requests.get(site + path).status_code == 200, path
    assert not [path for path in requests.get(f"{site}openapi.json").json()["paths"] if "page" in path]
    files = ("file=/etc/hostname", "file=https://example.org")
    for path in ("info", "openapi.json", *files, "upload", "call/read", "runs", "queue/data?session_hash=x"):
        assert requests.get(f"{site}gradio_api/{path}").status_code == 404, path
    for path in ("queue/join", "upload", "run/answer", "api/answer", "call/answer", "component_server"):
        assert requests.post(f"{site}gradio_api/{path}", json={"data": []}).status_code == 404, path
    for path in ("config", "monitoring", "login", "../etc/hostname", "v1/unknown"):
        assert requests.get(site + path).status_code == 404, path


@pytest.mark.filterwarnings("error")
def test_the_page_mounts_inside_an_event_loop_or_outside_and_leaves_none_open():
    async def mount() -> None:
        mount_page(FastAPI(), Batcher("models/none.keras"), 1)

    for work in (lambda: mount_page(FastAPI(), Batcher("models/none.keras"), 1), lambda: asyncio.run(mount())):
        with ThreadPoolExecutor(1) as thread:  # Playwright keeps a loop running in this one
            thread.submit(work).result()
    gc.collect()
