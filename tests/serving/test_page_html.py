"""What the page shows is escaped, rounded with care and the same at each start."""

from dataclasses import replace

import pytest
from pages import PNG, predict

from pneumonia.images.refusal import ImageRefusedError
from pneumonia.inference.predictor import Predictor
from pneumonia.serving.batcher import Reply
from pneumonia.serving.page import EXAMPLES, format_percent, render_answer, render_examples


def test_examples_are_the_same_at_each_start_and_show_both_classes():
    assert render_examples() == render_examples()
    assert {kind == "" for _, kind in EXAMPLES.values()} == {True, False}


def test_an_answer_below_the_threshold_is_the_other_class(predictor: Predictor):
    image, answer = predictor.read_image(PNG), predict(predictor, PNG)
    normal = replace(answer, probability=0.0123, decision="NORMAL")
    page = render_answer(Reply(predictor, [image], [normal], [predictor.explain(image[None])[0]]))
    assert '<strong class="decision">NORMAL</strong>' in page and "<strong>1.2%</strong>" in page


def test_of_a_model_file_the_page_shows_only_the_name(predictor: Predictor):
    image, answer = predictor.read_image(PNG), predict(predictor, PNG)
    named = Predictor(predictor.model, predictor.point, predictor.novelty, "/home/roe/models/finetuned.keras")
    page = render_answer(Reply(named, [image], [answer], [predictor.explain(image[None])[0]]))
    assert "Model finetuned.keras" in page and "roe" not in page and "version" not in page


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
