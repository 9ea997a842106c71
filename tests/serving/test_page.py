"""The page shows what the predictor says, by eye, mouse and keyboard; it contacts nobody and keeps nothing."""

import asyncio
import gc
import re
import shutil
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import requests
from dicoms import NARROW, encode, encode_pillow
from fastapi import FastAPI
from numpy.random import default_rng
from PIL import Image
from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Request, Response, expect, sync_playwright
from projects import ROOT, clean_environment

from benchmarks.servers import find_port
from pneumonia.core.dataset import Pixels
from pneumonia.images.refusal import ImageRefusedError
from pneumonia.inference.heatmaps import overlay
from pneumonia.inference.predictor import Answer, Predictor
from pneumonia.serving.batcher import Batcher, Reply
from pneumonia.serving.page import EXAMPLES, format_percent, mount_page, render_answer, render_examples
from pneumonia.sources.phantom import draw_chest, expose

MAX_UPLOAD_MB = 1
# Logs what it opens for writing and whom it connects to.
SERVER = """
import os, sys
from contextlib import asynccontextmanager

log = os.open(sys.argv[2], os.O_CREAT | os.O_APPEND | os.O_WRONLY)

def note(event, arguments):
    written = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    if written or event in ("os.mkdir", "os.rename", "socket.connect", "socket.getaddrinfo", "subprocess.Popen"):
        os.write(log, f"{event} {arguments}\\n".encode())

sys.addaudithook(note)

import uvicorn
from fastapi import FastAPI
from pneumonia.serving.batcher import Batcher
from pneumonia.serving.page import mount_page

batcher = Batcher("champion")

@asynccontextmanager
async def lifespan(app):
    async with batcher.running():
        yield

app = FastAPI(lifespan=lifespan)
app.get("/healthz")(lambda: "ok")
uvicorn.run(mount_page(app, batcher, int(sys.argv[3])), port=int(sys.argv[1]), log_level="warning")
"""


class Server(NamedTuple):
    address: str
    log: Path
    folder: Path  # of temporary files


@pytest.fixture(scope="module")
def server(registry: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder, port = tmp_path_factory.mktemp("server"), find_port()
    (folder / "tmp").mkdir()
    server = Server(f"http://127.0.0.1:{port}", folder / "log", folder / "tmp")
    limits = [str(port), str(server.log), str(MAX_UPLOAD_MB)]
    command = [sys.executable, "-W", "error::ResourceWarning", "-c", SERVER, *limits]
    environment = clean_environment() | {"PYTHONPATH": str(ROOT), "TMPDIR": str(server.folder)}
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(command, cwd=registry, env=environment, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and process.poll() is None:
            try:
                requests.get(f"{server.address}/healthz", timeout=5)
                break
            except requests.RequestException:
                time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        process.wait(timeout=90)
    printed = (folder / "output").read_text()
    assert "ResourceWarning" not in printed, printed


@pytest.fixture(scope="module")
def browser() -> Iterator[BrowserContext]:
    """Return a browser with one cache, so that Gradio's files are loaded once."""
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.fail("The page is tested in a browser: install Debian's with `apt-get install chromium`.", pytrace=False)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield browser.new_context()
        browser.close()


def visit(browser: BrowserContext, server: Server, asked: list[str], wrong: list[str], width: int = 1200) -> Page:
    """Open the page; add its requests and whatever goes wrong to the lists."""
    page = browser.new_page()
    page.set_viewport_size({"width": width, "height": 800})
    page.set_default_timeout(90_000)  # the first answer on a busy machine

    def check(response: Response) -> None:
        wrong.extend([f"{response.status} {response.url}"] if response.status >= 400 else [])

    def fail(request: Request) -> None:  # the browser closes the stream of an answer once it has it
        wrong.extend([] if "/queue/data?" in request.url else [f"{request.url} failed"])

    def listen(message: ConsoleMessage) -> None:
        wrong.extend([message.text] if message.type in ("error", "warning") else [])

    page.on("request", lambda request: asked.append(f"{request.method} {request.url}"))
    page.on("response", check)
    page.on("requestfailed", fail)
    page.on("console", listen)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("filechooser", lambda _: None)  # without a listener Playwright arms too late
    page.goto(server.address)
    page.get_by_text("Not a medical device").wait_for()
    return page


@pytest.fixture
def page(browser: BrowserContext, server: Server) -> Iterator[Page]:
    """Return the page, which must contact nobody else, receive everything it requests and report no error."""
    asked: list[str] = []
    wrong: list[str] = []
    page = visit(browser, server, asked, wrong)
    yield page
    page.close()
    elsewhere = [url for url in asked if not re.match(rf"\w+ ({re.escape(server.address)}/|data:)", url)]
    assert (elsewhere, wrong) == ([], [])


@pytest.fixture(scope="module")
def predictor(once: Path) -> Predictor:
    return Predictor.read(once / "models" / "finetuned.keras")


def draw(seed: int, kind: str = "bacteria") -> Pixels:
    return expose(default_rng(seed), draw_chest(default_rng(seed), default_rng(9), (97, 131), kind))


IMAGE = draw(1)
PNG = encode_pillow(IMAGE, "PNG")
NOISE = encode_pillow(default_rng(0).integers(0, 256, (300, 300), dtype=np.uint8), "PNG")


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


def test_a_radiograph_gets_the_answer_of_the_predictor_and_the_rule_behind_it(page: Page, predictor: Predictor):
    drop(page, PNG)
    expect_answer(page, predict(predictor, PNG))
    answer = page.locator(".result")
    expect(answer).to_contain_text("Calibrated probability of PNEUMONIA")
    expect(answer).to_contain_text("at or above the threshold of 50.0% (rule: fixed)")
    expect(answer).to_contain_text("Model version 1")
    assert page.get_by_text("does not look like").count() == 0


def test_a_dicom_file_gets_the_answer_of_its_png_and_is_shown_as_the_model_sees_it(page: Page, predictor: Predictor):
    content = encode(IMAGE, **NARROW)
    drop(page, content, "image.dcm")
    expect_answer(page, predict(predictor, PNG))
    np.testing.assert_array_equal(look(page, ".image img:first-child"), predictor.read_image(content))


def test_the_page_warns_about_anything_but_a_chest_radiograph(page: Page, predictor: Predictor):
    assert predict(predictor, NOISE).novel
    drop(page, NOISE)
    warning = page.get_by_role("alert")
    expect(warning).to_have_text("This does not look like a frontal chest radiograph. The answer below means nothing.")


def test_a_file_that_is_no_image_is_refused_with_its_reason_and_the_next_one_is_read(page: Page, predictor: Predictor):
    drop(page, b"Dear <b>doctor</b>", "letter.txt")
    expect_refusal(page, "not a JPEG, PNG, TIFF, WEBP, BMP or DICOM file")
    drop(page, b"", "nothing.png")
    expect_refusal(page, "empty file")
    assert not re.search("Traceback|Error", page.locator("body").inner_text())
    drop(page, PNG)
    expect_answer(page, predict(predictor, PNG))
    assert page.get_by_role("alert").count() == 0


def test_a_file_beyond_the_limit_is_refused_without_being_sent(page: Page):
    sent: list[int] = []
    page.on("request", lambda request: sent.append(len(request.post_data or "")))
    drop(page, bytes(MAX_UPLOAD_MB * 2**20 + 1))
    expect_refusal(page, "more than 1 MB")
    assert max(sent) < 10_000
    drop(page, bytes(MAX_UPLOAD_MB * 2**20))
    expect_refusal(page, "not a JPEG, PNG, TIFF, WEBP, BMP or DICOM file")


def test_the_heat_map_lies_over_the_radiograph_and_the_slider_changes_it_without_a_request(
    page: Page, predictor: Predictor
):
    drop(page, PNG)
    page.locator(".answer").wait_for()
    image = predictor.read_image(PNG)
    expected = overlay(image, predictor.explain(image[None])[0], 0.6)
    heat = look(page, ".heat").astype(float)
    weight = 0.6 * heat[..., 3:] / 255
    np.testing.assert_allclose(image[..., None] * (1 - weight) + heat[..., :3] * weight, expected, atol=1.5)

    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    slider, shown = page.get_by_label("Opacity of the heat map"), page.locator(".image")
    pictures = {}
    for opacity in ("0.6", "0", "1"):
        slider.fill(opacity)
        assert page.locator(".heat").evaluate("image => getComputedStyle(image).opacity") == opacity
        pictures[opacity] = np.asarray(Image.open(BytesIO(shown.screenshot())).convert("RGB")).astype(int)
    assert np.ptp(pictures["0"], axis=2).max() == 0  # the radiograph alone is grey
    changes = [np.abs(pictures[opacity] - pictures["0"]).mean() for opacity in ("0.6", "1")]
    assert 1 < changes[0] < changes[1]
    assert asked == []


def test_every_example_is_a_click_away(page: Page, predictor: Predictor):
    for name in EXAMPLES:
        button = page.get_by_role("button", name=name, exact=True)
        content = decode(button.locator("img").get_attribute("src"))
        button.click()
        expect_answer(page, predict(predictor, content))


def test_examples_are_the_same_at_each_start_and_show_both_classes():
    assert render_examples() == render_examples()
    assert {kind == "" for _, kind in EXAMPLES.values()} == {True, False}


def test_everything_works_with_the_keyboard_alone(page: Page, predictor: Predictor):
    def tab() -> None:
        page.keyboard.press("Tab")
        outline = page.evaluate("getComputedStyle(document.activeElement).outline")
        assert "solid" in outline and "0px" not in outline

    tab()
    with page.expect_file_chooser() as chosen:
        page.keyboard.press("Enter")
    chosen.value.set_files({"name": "image.png", "mimeType": "image/png", "buffer": PNG})
    expect_answer(page, predict(predictor, PNG))
    tab()
    example = decode(page.locator("button:focus img").get_attribute("src"))
    page.keyboard.press("Enter")
    expect_answer(page, predict(predictor, example))
    for _ in EXAMPLES:
        tab()
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_label("Opacity of the heat map")).to_have_value("0.55")
    tab()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Model card")).to_be_visible()


def test_a_phone_shows_everything_without_scrolling_sideways(browser: BrowserContext, server: Server):
    wrong: list[str] = []
    page = visit(browser, server, [], wrong, width=375)
    for content in (PNG, NOISE):
        drop(page, content)
        page.locator(".novel" if content == NOISE else ".answer").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") == 375
    page.get_by_role("button", name="Model card").click()
    page.get_by_role("heading", name="Subgroups").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    page.close()
    assert wrong == []


def test_the_page_introduces_itself_with_its_warnings_and_the_model_card(page: Page):
    for text in (
        "Not a medical device. Do not use it to guide the care of a patient.",
        "Synthetic radiographs: no clinical meaning. Answers of this model for real radiographs mean nothing.",
    ):
        expect(page.get_by_role("note").filter(has_text=text)).to_be_visible()
    assert page.locator("html").get_attribute("lang") == "en"
    expect(page).to_have_title("Pneumonia on paediatric chest radiographs")
    expect(page.get_by_role("heading", level=1).first).to_have_text("Pneumonia on paediatric chest radiographs")
    expect(page.get_by_role("heading", name="Model card")).not_to_be_visible()
    page.get_by_role("button", name="Model card").click()
    expect(page.get_by_role("heading", name="Model card: default, tiny")).to_be_visible()
    expect(page.locator(".card").first).to_contain_text("Intended use")
    assert "license: apache-2.0" not in page.locator("body").inner_text()


def test_two_visitors_get_the_answers_to_their_own_radiographs(
    browser: BrowserContext, server: Server, predictor: Predictor
):
    images = [PNG, encode_pillow(draw(5, ""), "PNG")]
    answers = [predict(predictor, image) for image in images]
    assert abs(answers[0].probability - answers[1].probability) > 1e-3
    wrong: list[str] = []
    pages = [visit(browser, server, [], wrong) for _ in images]
    for _ in range(3):
        for page, image in zip(pages, images, strict=True):
            drop(page, image)
        for page, answer in zip(pages, answers, strict=True):
            expect_answer(page, answer)
    for page in pages:
        page.close()
    assert wrong == []


def test_of_several_files_dropped_in_haste_the_last_one_is_shown(page: Page, predictor: Predictor):
    for seed in range(5, 10):  # a new one each time, or the answer before could be taken for it
        last = encode_pillow(draw(seed, ""), "PNG")
        drop(page, PNG)
        drop(page, NOISE)
        drop(page, last)
        expect_answer(page, predict(predictor, last))


@pytest.mark.parametrize("failure", ["a full queue", "an answer that fails", "a lost connection"])
def test_the_page_recovers_from_a_failure(browser: BrowserContext, server: Server, predictor: Predictor, failure: str):
    page = visit(browser, server, [], [])
    if failure == "an answer that fails":
        page.locator(".examples img").first.evaluate("image => { image.src = 'data:,A'; }")
    elif failure == "a full queue":
        page.route("**/queue/join*", lambda route: route.fulfill(status=503, json={"detail": "full"}), times=1)
    else:
        page.route("**/queue/join*", lambda route: route.abort(), times=1)
    with page.expect_event("load") if failure == "a lost connection" else nullcontext():
        page.get_by_role("button", name="normal").click()
    page.get_by_text("Not a medical device").wait_for()
    drop(page, PNG)
    expect_answer(page, predict(predictor, PNG))
    page.close()


def test_a_session_leaves_nothing_on_disk_and_the_server_contacts_nobody(
    browser: BrowserContext, server: Server, registry: Path
):
    def list_files() -> set[Path]:
        return {path for folder in (server.folder, registry) for path in folder.rglob("*")}

    before, log = list_files(), server.log.read_text()
    page = visit(browser, server, [], [])
    for content in (PNG, encode(IMAGE, **NARROW), b"Dear doctor", NOISE):
        drop(page, content, "roe_jane.png")
        page.locator(".novel" if content == NOISE else ".answer, .warn[role=alert]").first.wait_for()
    page.close()
    assert list_files() == before
    assert server.log.read_text() == log
    assert "os.mkdir" in log  # the log does work: Gradio makes an empty folder at its start


def test_the_server_connects_to_nobody_whatever_it_is_sent(server: Server):
    url = "http://192.0.2.1/image.png"  # an address reserved for documentation
    file = {"path": url, "url": url, "meta": {"_type": "gradio.FileData"}}
    for event in (file, {"content": file}, {"content": "&"}, {"content": [1]}, {}, None, "text"):
        for function in range(3):
            body = {"data": [file], "event_data": event, "fn_index": function, "session_hash": f"s{function}"}
            requests.post(f"{server.address}/gradio_api/queue/join", json=body)
    time.sleep(1)
    assert "socket" not in server.log.read_text()


def test_the_browser_refuses_to_contact_anybody_else_for_the_page(browser: BrowserContext, server: Server):
    elsewhere = server.address.replace("127.0.0.1", "localhost") + "/healthz"
    fetch = f"fetch('{elsewhere}', {{ mode: 'no-cors' }}).then(() => 'fetched', () => 'refused')"
    page = visit(browser, server, [], [])
    assert page.evaluate(fetch) == "refused"
    page.goto(f"{server.address}/healthz")  # which restricts nothing
    assert page.evaluate(fetch) == "fetched"
    page.close()


def test_the_rest_of_the_app_is_served_and_the_rest_of_gradio_is_not(server: Server):
    for path in ("/", "/healthz", "/openapi.json", "/favicon.ico", "/manifest.json"):
        assert requests.get(server.address + path).status_code == 200, path
    assert list(requests.get(server.address + "/openapi.json").json()["paths"]) == ["/healthz"]
    files = ("file=/etc/hostname", "file=https://example.org")
    for path in ("info", "openapi.json", *files, "upload", "call/read", "runs"):
        assert requests.get(f"{server.address}/gradio_api/{path}").status_code == 404, path
    for path in ("upload", "run/answer", "api/answer", "call/answer", "component_server", "run-history/connect"):
        assert requests.post(f"{server.address}/gradio_api/{path}", json={}).status_code == 404, path
    for path in ("/config", "/monitoring", "/login", "/../etc/hostname", "/v1/unknown"):
        assert requests.get(server.address + path).status_code == 404, path


def test_a_body_too_large_for_an_image_is_refused_before_it_is_read(server: Server):
    join = f"{server.address}/gradio_api/queue/join"
    assert requests.post(join, data=bytes(2 * MAX_UPLOAD_MB * 2**20)).status_code == 413
    assert requests.post(join, data=iter([b"of unknown length"])).status_code == 413


@pytest.mark.filterwarnings("error")
def test_the_page_mounts_inside_an_event_loop_or_outside_and_leaves_none_open():
    async def mount() -> None:
        mount_page(FastAPI(), Batcher("models/none.keras"), 1)

    for work in (lambda: mount_page(FastAPI(), Batcher("models/none.keras"), 1), lambda: asyncio.run(mount())):
        with ThreadPoolExecutor(1) as thread:  # Playwright keeps a loop running in this one
            thread.submit(work).result()
    gc.collect()


def test_an_answer_below_the_threshold_is_the_other_class(predictor: Predictor):
    image, answer = predictor.read_image(PNG), predict(predictor, PNG)
    normal = replace(answer, probability=0.0123, decision="NORMAL")
    page = render_answer(Reply(predictor, [image], [normal], [predictor.explain(image[None])[0]]))
    assert '<strong class="decision">NORMAL</strong>' in page and "<strong>1.2%</strong>" in page


def test_of_a_model_file_the_page_shows_only_the_name(predictor: Predictor, once: Path):
    image = predictor.read_image(PNG)
    reply = Reply(predictor, [image], [predict(predictor, PNG)], [predictor.explain(image[None])[0]])
    page = render_answer(reply)
    assert "Model finetuned.keras" in page and str(once) not in page and "version" not in page


def test_text_from_outside_is_escaped(predictor: Predictor):
    image, answer = predictor.read_image(PNG), predict(predictor, PNG)
    attack = "<script>alert(1)<script>\"'.keras"
    named = Predictor(predictor.model, predictor.point, predictor.novelty, attack)
    for page in (
        render_answer(Reply(predictor, [None], [ImageRefusedError(attack)], [None])),
        render_answer(Reply(named, [image], [answer], [predictor.explain(image[None])[0]])),
    ):
        assert "&lt;script&gt;alert(1)&lt;script&gt;&#34;&#39;.keras" in page
        assert "<script" not in page and attack not in page


@pytest.mark.parametrize(
    "share, shown",
    [(0.0, "0.0%"), (1e-9, "under 0.1%"), (0.0005, "0.1%"), (0.843, "84.3%"), (0.9996, "over 99.9%"), (1, "100.0%")],
)
def test_only_certainty_is_shown_as_certain(share: float, shown: str):
    assert format_percent(share) == shown
