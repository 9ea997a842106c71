"""Open the page in a real browser, use it, and read what it shows."""

from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

import numpy as np
import pytest
from dicoms import encode_pillow
from numpy.random import default_rng
from PIL import Image
from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Request, Response, expect

from pneumonia.core.dataset import Pixels
from pneumonia.inference.predictor import Answer, Predictor
from pneumonia.serving.page import format_percent
from pneumonia.sources.phantom import draw_chest, expose

MAX_UPLOAD_MB = 1


def draw(seed: int, kind: str = "bacteria") -> Pixels:
    return expose(default_rng(seed), draw_chest(default_rng(seed), default_rng(9), (97, 131), kind))


IMAGE = draw(1)
PNG = encode_pillow(IMAGE, "PNG")
NOISE = encode_pillow(default_rng(0).integers(0, 256, (300, 300), dtype=np.uint8), "PNG")


@contextmanager
def visiting(browser: BrowserContext, url: str, width: int = 1200, flawless: bool = True) -> Iterator[Page]:
    """Open the page, which must contact nobody else and, if flawless, receive all it requests and report no error."""
    page = browser.new_page()
    page.set_viewport_size({"width": width, "height": 800})
    page.set_default_timeout(90_000)  # the first answer on a busy machine
    wrong: list[str] = []

    def check(response: Response) -> None:
        wrong.extend([f"{response.status} {response.url}"] if response.status >= 400 else [])

    def fail(request: Request) -> None:  # the page gives an answer up when another image is chosen
        wrong.extend([] if request.url.endswith("/page/answer") else [f"{request.url} failed"])

    def listen(message: ConsoleMessage) -> None:
        wrong.extend([message.text] if message.type in ("error", "warning") else [])

    page.on("request", lambda request: None if request.url.startswith((url, "data:")) else wrong.append(request.url))
    page.on("response", check)
    page.on("requestfailed", fail)
    page.on("console", listen)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("filechooser", lambda _: None)  # without a listener Playwright arms too late
    page.goto(url)
    page.get_by_text("Not a medical device").wait_for()
    yield page
    page.close()
    assert wrong == [] or not flawless


def predict(predictor: Predictor, content: bytes) -> Answer:
    return predictor.predict(predictor.read_image(content)[None])[0]


def drop(page: Page, content: bytes, name: str = "image") -> None:
    file = {"name": name, "mimeType": "application/octet-stream", "buffer": content}
    page.get_by_label("Chest radiograph").set_input_files(file)  # pyright: ignore[reportArgumentType]


def read(page: Page) -> tuple[float, str]:
    """Return the probability and the decision on the page."""
    shown = page.get_by_role("meter").get_attribute("aria-valuenow")
    return float(shown or "nan"), page.locator(".decision").inner_text()


def decode(uri: str | None) -> bytes:
    return b64decode((uri or "").partition(",")[2])


def look(page: Page, selector: str) -> np.ndarray:
    """Return a picture on the page as it was sent."""
    return np.asarray(Image.open(BytesIO(decode(page.locator(selector).get_attribute("src")))))


def expect_answer(page: Page, answer: Answer) -> None:
    page.locator(f".result:has-text('{format_percent(answer.probability)}')").wait_for()
    assert read(page) == (pytest.approx(answer.probability, abs=1e-6), answer.decision)


def expect_refusal(page: Page, reason: str) -> None:
    expect(page.get_by_role("alert")).to_have_text(f"File refused: {reason}")
