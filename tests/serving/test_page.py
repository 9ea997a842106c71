"""The page shows what the predictor says, by eye, mouse and keyboard."""

import re
from collections.abc import Callable
from io import BytesIO

import numpy as np
import requests
from dicoms import NARROW, encode, encode_pillow
from pages import (
    IMAGE,
    MAX_UPLOAD_MB,
    NOISE,
    PNG,
    decode,
    draw,
    drop,
    expect_answer,
    expect_refusal,
    look,
    predict,
    visiting,
)
from PIL import Image
from playwright.sync_api import BrowserContext, Page, Route, expect
from services import attach

from pneumonia.inference.heatmaps import overlay
from pneumonia.inference.predictor import Predictor
from pneumonia.serving.page import EXAMPLES


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
    drop(page, bytes(MAX_UPLOAD_MB * 10**6 + 1))
    expect_refusal(page, "more than 1 MB")
    assert sent == []
    drop(page, bytes(MAX_UPLOAD_MB * 10**6))
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


def test_a_phone_shows_everything_without_scrolling_sideways(browser: BrowserContext, site: str):
    with visiting(browser, site, width=375) as page:
        for content in (PNG, NOISE):
            drop(page, content)
            page.locator(".novel" if content == NOISE else ".answer").wait_for()
            assert page.evaluate("document.documentElement.scrollWidth") == 375
        page.get_by_role("button", name="Model card").click()
        page.get_by_role("heading", name="Subgroups").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") == 375


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
    browser: BrowserContext, site: str, predictor: Predictor
):
    images = [PNG, encode_pillow(draw(5, ""), "PNG")]
    answers = [predict(predictor, image) for image in images]
    assert abs(answers[0].probability - answers[1].probability) > 1e-3
    with visiting(browser, site) as first, visiting(browser, site) as second:
        for page, image in zip((first, second), images, strict=True):
            drop(page, image)
        for page, answer in zip((first, second), answers, strict=True):
            expect_answer(page, answer)


def test_of_several_files_dropped_in_haste_the_last_one_is_shown(page: Page, predictor: Predictor):
    for seed in range(5, 10):  # a new one each time, or the answer before could be taken for it
        last = encode_pillow(draw(seed, ""), "PNG")
        drop(page, PNG)
        drop(page, NOISE)
        drop(page, last)
        expect_answer(page, predict(predictor, last))


def test_the_page_says_why_there_is_no_answer_and_goes_on(browser: BrowserContext, site: str, predictor: Predictor):
    failures: dict[str, Callable[[Route], None]] = {
        "The service cannot be reached; try again.": lambda route: route.abort(),
        "64 are <b>busy</b>.": lambda route: route.fulfill(status=429, json={"detail": "64 are <b>busy</b>."}),
    }
    with visiting(browser, site, flawless=False) as page:
        for reason, fail in failures.items():
            page.route("**/page/answer", fail, times=1)
            page.get_by_role("button", name="normal").click()
            expect(page.get_by_role("alert")).to_have_text(f"No answer. {reason}")
        drop(page, PNG)
        expect_answer(page, predict(predictor, PNG))


def test_page_and_api_work_behind_the_proxy_of_the_documentation(
    browser: BrowserContext, proxy: str, predictor: Predictor
):
    with visiting(browser, proxy) as page:
        drop(page, PNG)
        expect_answer(page, predict(predictor, PNG))
    assert requests.post(f"{proxy}v1/predict", files=attach(PNG)).status_code == 200
    assert requests.get(f"{proxy}openapi.json").json()["servers"] == [{"url": "."}]
