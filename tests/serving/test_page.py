"""The page says what the predictor says, to whoever can see, type or click, and neither asks nor keeps anything."""

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
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Response, expect, sync_playwright
from projects import ROOT, clean_environment

from benchmarks.servers import find_port
from pneumonia.core.dataset import Pixels
from pneumonia.images.refusal import ImageRefusedError
from pneumonia.inference.heatmaps import overlay
from pneumonia.inference.predictor import Answer, Predictor
from pneumonia.serving.batcher import Reply, Service
from pneumonia.serving.page import EXAMPLES, describe_answer, format_share, mount_page, show_examples, warn
from pneumonia.sources.phantom import draw_chest, expose

CHROMIUM = shutil.which("chromium")
if not CHROMIUM:
    pytest.skip("chromium is not installed: apt-get install chromium", allow_module_level=True)

MOST_MB = 1
# Tells what it opens to write and whom it connects to.
SERVER = """
import os, sys
from contextlib import asynccontextmanager

told = os.open(sys.argv[2], os.O_CREAT | os.O_APPEND | os.O_WRONLY)

def tell(event, arguments):
    written = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    if written or event in ("os.mkdir", "os.rename", "socket.connect", "socket.getaddrinfo", "subprocess.Popen"):
        os.write(told, f"{event} {arguments}\\n".encode())

sys.addaudithook(tell)

import uvicorn
from fastapi import FastAPI
from pneumonia.page import mount_page
from pneumonia.service import Service

service = Service("champion")

@asynccontextmanager
async def lifespan(app):
    async with service.running():
        yield

app = FastAPI(lifespan=lifespan)
app.get("/healthz")(lambda: "well")
uvicorn.run(mount_page(app, service, int(sys.argv[3])), port=int(sys.argv[1]), log_level="warning")
"""


class Served(NamedTuple):
    address: str
    told: Path
    folder: Path  # of temporary files


@pytest.fixture(scope="module")
def served(once: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder, port = tmp_path_factory.mktemp("served"), find_port()
    (folder / "tmp").mkdir()
    found = Served(f"http://127.0.0.1:{port}", folder / "told", folder / "tmp")
    command = [sys.executable, "-W", "error::ResourceWarning", "-c", SERVER, str(port), str(found.told), str(MOST_MB)]
    environment = clean_environment() | {"PYTHONPATH": str(ROOT), "TMPDIR": str(found.folder)}
    with (folder / "said").open("w") as said:
        process = subprocess.Popen(command, cwd=once, env=environment, stdout=said, stderr=said)
    try:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and process.poll() is None:
            try:
                requests.get(f"{found.address}/healthz", timeout=5)
                break
            except requests.RequestException:
                time.sleep(0.2)
        yield found
    finally:
        process.terminate()
        process.wait(timeout=90)
    said = (folder / "said").read_text()
    assert "ResourceWarning" not in said, said


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def visit(browser: Browser, served: Served, asked: list[str], wrong: list[str], width: int = 1200) -> Page:
    """Open the page; what it asks for and what goes wrong is added to the lists."""
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.set_default_timeout(90_000)  # the first answer on a busy machine

    def check(response: Response) -> None:
        wrong.extend([f"{response.status} {response.url}"] if response.status >= 400 else [])

    def fail(request: Request) -> None:  # the browser ends the stream of an answer when it has it
        wrong.extend([] if "/queue/data?" in request.url else [f"{request.url} failed"])

    def listen(message: ConsoleMessage) -> None:
        wrong.extend([message.text] if message.type in ("error", "warning") else [])

    page.on("request", lambda request: asked.append(f"{request.method} {request.url}"))
    page.on("response", check)
    page.on("requestfailed", fail)
    page.on("console", listen)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("filechooser", lambda _: None)  # without a listener Playwright arms late, and the browser has cancelled
    page.goto(served.address)
    page.get_by_text("Not a medical device").wait_for()
    return page


@pytest.fixture
def page(browser: Browser, served: Served) -> Iterator[Page]:
    """Return the page, which must ask nobody else for anything, get all it asks for and report no error."""
    asked: list[str] = []
    wrong: list[str] = []
    page = visit(browser, served, asked, wrong)
    yield page
    page.close()
    elsewhere = [url for url in asked if not re.match(rf"\w+ ({re.escape(served.address)}/|data:)", url)]
    assert (elsewhere, wrong) == ([], [])


@pytest.fixture(scope="module")
def predictor(once: Path) -> Predictor:
    return Predictor.read(once / "models" / "finetuned.keras")


def draw(seed: int, kind: str = "bacteria") -> Pixels:
    return expose(default_rng(seed), draw_chest(default_rng(seed), default_rng(9), (97, 131), kind))


IMAGE = draw(1)
PNG = encode_pillow(IMAGE, "PNG")
NOISE = encode_pillow(default_rng(0).integers(0, 256, (300, 300), dtype=np.uint8), "PNG")


def ask(predictor: Predictor, content: bytes) -> Answer:
    return predictor.predict(predictor.read_image(content)[None])[0]


def drop(page: Page, content: bytes, name: str = "image") -> None:
    file = {"name": name, "mimeType": "application/octet-stream", "buffer": content}
    page.get_by_label("Chest radiograph").set_input_files(file)  # pyright: ignore[reportArgumentType]


def read(page: Page) -> tuple[float, str]:
    """Return probability and decision that the page shows."""
    shown = page.get_by_role("meter").get_attribute("aria-valuenow")
    return float(shown or "nan"), page.locator(".decision").inner_text()


def look(page: Page, selector: str) -> np.ndarray:
    """Return a picture of the page as it was sent."""
    source = page.locator(selector).get_attribute("src") or ""
    return np.asarray(Image.open(BytesIO(b64decode(source.partition(",")[2]))))


def expect_answer(page: Page, answer: Answer) -> None:
    shown = page.locator(f".said:has-text('{format_share(answer.probability)}')")
    shown.wait_for()
    assert read(page) == (pytest.approx(answer.probability, abs=1e-6), answer.decision)


def test_a_image_says_what_the_predictor_says_of_it_and_by_which_rule(page: Page, predictor: Predictor):
    drop(page, PNG)
    expect_answer(page, ask(predictor, PNG))
    said = page.locator(".said")
    expect(said).to_contain_text("Calibrated probability of PNEUMONIA")
    expect(said).to_contain_text("from a threshold of 50.0 % on (rule: fixed)")
    expect(said).to_contain_text("Model version 1")
    assert page.get_by_text("does not look like").count() == 0


def test_a_dicom_image_says_what_it_says_as_png_and_is_shown_as_the_model_saw_it(page: Page, predictor: Predictor):
    content = encode(IMAGE, **NARROW)
    drop(page, content, "image.dcm")
    expect_answer(page, ask(predictor, PNG))
    np.testing.assert_array_equal(look(page, ".image img:first-child"), predictor.read_image(content))


def test_what_is_no_chest_radiograph_is_said_to_be_none_and_its_answer_to_mean_nothing(
    page: Page, predictor: Predictor
):
    assert ask(predictor, NOISE).novel
    drop(page, NOISE)
    warning = page.get_by_role("alert")
    expect(warning).to_have_text("This does not look like a frontal chest radiograph. The answer below means nothing.")


def test_a_file_that_is_no_image_is_refused_with_its_reason_and_the_next_is_read(page: Page, predictor: Predictor):
    drop(page, b"Dear <b>doctor</b>", "letter.txt")
    expect(page.get_by_role("alert")).to_have_text("This file is refused: not a JPEG, PNG or DICOM file")
    drop(page, b"", "nothing.png")
    expect(page.get_by_role("alert")).to_have_text("This file is refused: empty file")
    assert not re.search("Traceback|Error", page.locator("body").inner_text())
    drop(page, PNG)
    expect_answer(page, ask(predictor, PNG))
    assert page.get_by_role("alert").count() == 0


def test_a_file_beyond_the_limit_is_refused_and_not_sent(page: Page):
    sent: list[int] = []
    page.on("request", lambda request: sent.append(len(request.post_data or "")))
    drop(page, bytes(MOST_MB * 2**20 + 1))
    expect(page.get_by_role("alert")).to_have_text("This file is refused: more than 1 MB")
    assert max(sent) < 10_000
    drop(page, bytes(MOST_MB * 2**20))
    expect(page.get_by_role("alert")).to_have_text("This file is refused: not a JPEG, PNG or DICOM file")


def test_the_image_lies_under_its_heat_map_and_the_slider_changes_it_without_asking_again(
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
    assert np.ptp(pictures["0"], axis=2).max() == 0  # the image alone is grey
    changes = [np.abs(pictures[opacity] - pictures["0"]).mean() for opacity in ("0.6", "1")]
    assert 1 < changes[0] < changes[1]
    assert asked == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_a_click_away(page: Page, predictor: Predictor, name: str):
    button = page.get_by_role("button", name=name, exact=True)
    source = button.locator("img").get_attribute("src") or ""
    button.click()
    expect_answer(page, ask(predictor, b64decode(source.partition(",")[2])))


def test_examples_are_the_same_at_each_start_and_show_both_classes():
    assert show_examples() == show_examples()
    assert {kind == "" for _, kind in EXAMPLES.values()} == {True, False}


def test_all_can_be_done_with_the_keyboard(page: Page, predictor: Predictor):
    def tab() -> None:
        page.keyboard.press("Tab")
        outline = page.evaluate("getComputedStyle(document.activeElement).outline")
        assert "solid" in outline and "0px" not in outline

    tab()
    with page.expect_file_chooser() as chosen:
        page.keyboard.press("Enter")
    chosen.value.set_files({"name": "image.png", "mimeType": "image/png", "buffer": PNG})
    expect_answer(page, ask(predictor, PNG))
    tab()
    button = page.locator("button:focus")
    example = b64decode((button.locator("img").get_attribute("src") or "").partition(",")[2])
    page.keyboard.press("Enter")
    expect_answer(page, ask(predictor, example))
    for _ in EXAMPLES:
        tab()
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_label("Opacity of the heat map")).to_have_value("0.55")
    tab()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Model card")).to_be_visible()


def test_a_phone_shows_all_without_scrolling_sideways(browser: Browser, served: Served):
    wrong: list[str] = []
    page = visit(browser, served, [], wrong, width=375)
    for content in (PNG, NOISE):
        drop(page, content)
        page.locator(".novel" if content == NOISE else ".answer").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") == 375
    page.get_by_role("button", name="Model card").click()
    page.get_by_role("heading", name="Subgroups").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    page.close()
    assert wrong == []


def test_the_page_says_that_it_is_no_medical_device_and_that_synthetic_images_mean_nothing(page: Page):
    for text in (
        "Not a medical device. Nothing said here may guide the care of a patient.",
        "Synthetic radiographs: no clinical meaning. What this model says of a real image means nothing.",
    ):
        expect(page.get_by_role("note").filter(has_text=text)).to_be_visible()
    assert page.locator("html").get_attribute("lang") == "en"
    expect(page).to_have_title("Pneumonia on paediatric chest radiographs")
    expect(page.get_by_role("heading", level=1).first).to_have_text("Pneumonia on paediatric chest radiographs")


def test_the_card_of_the_model_stands_on_the_page_before_any_image_does(page: Page):
    expect(page.get_by_role("heading", name="Model card")).not_to_be_visible()
    page.get_by_role("button", name="Model card").click()
    expect(page.get_by_role("heading", name="Model card: default, tiny")).to_be_visible()
    expect(page.locator(".card").first).to_contain_text("Intended use")
    assert "license: apache-2.0" not in page.locator("body").inner_text()


def test_two_visitors_get_the_answers_to_their_own_images(browser: Browser, served: Served, predictor: Predictor):
    images = [PNG, encode_pillow(draw(5, ""), "PNG")]
    answers = [ask(predictor, image) for image in images]
    assert abs(answers[0].probability - answers[1].probability) > 1e-3
    wrong: list[str] = []
    pages = [visit(browser, served, [], wrong) for _ in images]
    for _ in range(3):
        for page, image in zip(pages, images, strict=True):
            drop(page, image)
        for page, answer in zip(pages, answers, strict=True):
            expect_answer(page, answer)
    for page in pages:
        page.close()
    assert wrong == []


def test_of_images_that_come_while_it_is_busy_the_last_is_answered(page: Page, predictor: Predictor):
    for seed in range(5, 10):  # another one each time: the answer before must not be taken for it
        last = encode_pillow(draw(seed, ""), "PNG")
        drop(page, PNG)
        drop(page, NOISE)
        drop(page, last)
        expect_answer(page, ask(predictor, last))


@pytest.mark.parametrize("failure", ["a full queue", "an answer that fails", "a lost connection"])
def test_after_a_failure_the_next_image_is_answered(
    browser: Browser, served: Served, predictor: Predictor, failure: str
):
    page = visit(browser, served, [], [])
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
    expect_answer(page, ask(predictor, PNG))
    page.close()


def test_a_session_leaves_nothing_on_disk_and_the_server_calls_nobody(browser: Browser, served: Served, once: Path):
    def look_around() -> set[Path]:
        return {path for folder in (served.folder, once) for path in folder.rglob("*")}

    before, told = look_around(), served.told.read_text()
    page = visit(browser, served, [], [])
    for content in (PNG, encode(IMAGE, **NARROW), b"Dear doctor", NOISE):
        drop(page, content, "roe_jane.png")
        page.locator(".novel" if content == NOISE else ".answer, .warn[role=alert]").first.wait_for()
    page.close()
    assert look_around() == before
    assert served.told.read_text() == told
    assert "os.mkdir" in told  # it does tell: Gradio makes an empty folder at its start


def test_the_server_connects_to_nobody_whatever_it_is_sent(served: Served):
    there = "http://192.0.2.1/image.png"  # an address kept for documentation
    file = {"path": there, "url": there, "meta": {"_type": "gradio.FileData"}}
    for event in (file, {"content": file}, {"content": "&"}, {"content": [1]}, {}, None, "text"):
        for work in range(3):
            body = {"data": [file], "event_data": event, "fn_index": work, "session_hash": f"s{work}"}
            requests.post(f"{served.address}/gradio_api/queue/join", json=body)
    time.sleep(1)
    assert "socket" not in served.told.read_text()


def test_the_browser_would_refuse_to_ask_anybody_else(browser: Browser, served: Served):
    elsewhere = served.address.replace("127.0.0.1", "localhost") + "/healthz"
    ask_elsewhere = f"fetch('{elsewhere}', {{ mode: 'no-cors' }}).then(() => 'asked', () => 'refused')"
    page = visit(browser, served, [], [])
    assert page.evaluate(ask_elsewhere) == "refused"
    page.goto(f"{served.address}/healthz")  # which says nothing of whom a browser may ask
    assert page.evaluate(ask_elsewhere) == "asked"
    page.close()


def test_the_rest_of_the_app_is_served_and_the_rest_of_gradio_is_not(served: Served):
    for path in ("/", "/healthz", "/openapi.json", "/favicon.ico", "/manifest.json"):
        assert requests.get(served.address + path).status_code == 200, path
    assert list(requests.get(served.address + "/openapi.json").json()["paths"]) == ["/healthz"]
    for path in (
        "info",
        "openapi.json",
        "file=/etc/hostname",
        "file=https://example.org",
        "upload",
        "call/read",
        "runs",
    ):
        assert requests.get(f"{served.address}/gradio_api/{path}").status_code == 404, path
    for path in ("upload", "run/answer", "api/answer", "call/answer", "component_server", "run-history/connect"):
        assert requests.post(f"{served.address}/gradio_api/{path}", json={}).status_code == 404, path
    for path in ("/config", "/monitoring", "/login", "/../etc/hostname", "/v1/unknown"):
        assert requests.get(served.address + path).status_code == 404, path


def test_what_is_too_much_for_a_image_is_refused_before_it_is_read(served: Served):
    join = f"{served.address}/gradio_api/queue/join"
    assert requests.post(join, data=bytes(2 * MOST_MB * 2**20)).status_code == 413
    assert requests.post(join, data=iter([b"of untold length"])).status_code == 413


@pytest.mark.filterwarnings("error")
def test_it_is_mounted_within_a_loop_or_without_and_leaves_none_open():
    async def mount() -> None:
        mount_page(FastAPI(), Service("models/none.keras"), 1)

    for work in (lambda: mount_page(FastAPI(), Service("models/none.keras"), 1), lambda: asyncio.run(mount())):
        with ThreadPoolExecutor(1) as thread:  # in this one Playwright keeps a loop running
            thread.submit(work).result()
    gc.collect()


def test_an_answer_below_the_threshold_is_the_other_class(predictor: Predictor):
    image, said = predictor.read_image(PNG), ask(predictor, PNG)
    normal = replace(said, probability=0.0123, decision="NORMAL")
    page = describe_answer(Reply(predictor, [image], [normal], [predictor.explain(image[None])[0]]))
    assert '<strong class="decision">NORMAL</strong>' in page and "<strong>1.2 %</strong>" in page
    assert str(predictor.name) in page and "version" not in page


def test_what_comes_from_a_file_is_no_markup(predictor: Predictor):
    page = describe_answer(Reply(predictor, [None], [ImageRefusedError("<script>")], [None]))
    assert page == warn("This file is refused:", "<script>", "alert")
    assert "<script>" not in page


@pytest.mark.parametrize(
    "share, shown",
    [
        (0.0, "0.0 %"),
        (1e-9, "under 0.1 %"),
        (0.0005, "0.1 %"),
        (0.843, "84.3 %"),
        (0.9996, "over 99.9 %"),
        (1, "100.0 %"),
    ],
)
def test_only_what_is_certain_is_shown_as_certain(share: float, shown: str):
    assert format_share(share) == shown
