"""Show a person what the model says of an image and where it looks. Nothing comes from elsewhere, nothing is kept."""

import asyncio
import re
from base64 import b64decode, b64encode
from concurrent.futures import ThreadPoolExecutor
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import numpy.typing as npt
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from matplotlib import colormaps
from numpy.random import default_rng
from PIL import Image
from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pneumonia.images.refusal import ImageRefusedError
from pneumonia.inference.predictor import Predictor
from pneumonia.serving.batcher import Reply, Service
from pneumonia.sources.phantom import draw_chest, expose

TITLE = "Pneumonia on paediatric chest radiographs"
EXAMPLES = {"normal": (5, ""), "bacterial": (3, "bacteria"), "viral": (9, "virus"), "viral, mild": (10, "virus")}
# What the page asks for. The rest of Gradio stays shut: it writes uploads to disk, hands out files, fetches any address
# for a caller and takes calls that pass the queue by.
OPEN = re.compile(
    r"/|/(assets|static)/.+|/theme\.css|/favicon\.ico|/manifest\.json|/gradio_api/(app_id|queue/join|queue/data)"
)
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval'; img-src 'self' data:"  # Gradio compiles its templates
CSS = Path(__file__).with_name("page.css")
PICK = """<label class="pick"><strong>Chest radiograph</strong>
<input type="file"><span class="soft">Choose a JPEG, PNG or DICOM file of up to {} MB, or drop it here.
It is not kept.</span></label>"""
# Images go one by one: their answers would come in any order, and the last image has to have the last word.
SEND = """
const send = content => {
    window.next = () => trigger("upload", { content });
    if (!window.busy) window.proceed();
};
window.proceed = () => {
    const next = window.next;
    window.next = null;
    window.busy = Boolean(next);
    if (next) next();
};"""
# The file goes from the browser's memory to the server's: what Gradio uploads would lie on disk.
READ = (
    SEND
    + """
const input = element.querySelector("input");
input.onclick = () => { input.value = ""; };
input.onchange = () => {
    const file = input.files[0], reader = new FileReader();
    reader.onload = () => { if (file === input.files[0]) send(reader.result.split(",")[1] || ""); };
    if (file && file.size > props.most) send(null);
    else if (file) reader.readAsDataURL(file);
};"""
)
CHOOSE = (
    SEND
    + """
element.onclick = event => {
    const button = event.target.closest("button");
    if (button) send(button.firstChild.src.split(",")[1]);
};"""
)


def mount_page(app: FastAPI, service: Service, max_upload_mb: int) -> FastAPI:
    """Mount the page at /, behind all that `app` serves already; `service` has to run while `app` does."""

    async def mount() -> None:
        gr.mount_gradio_app(
            app, draw_page(service, max_upload_mb), "/", footer_links=[], run_history=False, show_error=False,
            ssr_mode=False, mcp_server=False, enable_monitoring=False, pwa=False, css=CSS.read_text(),
            theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        )  # fmt: skip

    with ThreadPoolExecutor(1) as thread:  # with a loop of its own: without one Gradio leaves several open
        thread.submit(asyncio.run, mount()).result()
    mounted = app.routes[-1]
    assert isinstance(mounted, Mount)
    mounted.app = Gate(mounted.app, max_upload_mb * 2**20 * 4 // 3 + 2**16)  # in base64, and what is around it
    return app


def draw_page(service: Service, max_upload_mb: int) -> gr.Blocks:
    """Return the page. Its functions run on the loop of the app, which is that of the service."""

    async def answer(event: gr.EventData) -> list[Any]:
        if event.content is None:
            return [warn("This file is refused:", f"more than {max_upload_mb} MB", "alert"), gr.skip(), gr.skip()]
        reply = await service.answer([b64decode(event.content)], explain=True)
        return [describe_answer(reply), *describe_model(reply.predictor)]

    async def introduce() -> list[str]:
        assert service.predictor, "the service is not running"
        return describe_model(service.predictor)

    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        head = gr.HTML()
        with gr.Row():
            with gr.Column(min_width=280):
                file = gr.HTML(PICK.format(max_upload_mb), js_on_load=READ, most=max_upload_mb * 2**20)
            with gr.Column(min_width=280):
                drawn = gr.HTML(show_examples(), js_on_load=CHOOSE, apply_default_css=False)
        said = gr.HTML()
        with gr.Accordion("Model card", open=False):
            card = gr.Markdown(elem_classes="card")
        answered = gr.on(
            [file.upload, drawn.upload], answer, None, [said, head, card], api_visibility="private",
            show_progress_on=said, trigger_mode="multiple",
        )  # fmt: skip
        for ended in (answered.success, answered.failure):
            ended(None, js="() => window.proceed()")
        page.load(introduce, None, [head, card], api_visibility="private", show_progress="hidden")
    page.state_session_capacity = 1  # else what was shown in the last 10,000 sessions stays in memory
    return page.queue(max_size=64, default_concurrency_limit=8)


def describe_answer(reply: Reply) -> str:
    """Return what is said of one image as HTML, or why it is refused."""
    (image,), (answer,), (heatmap,), point = reply.images, reply.answers, reply.heatmaps, reply.predictor.point
    if isinstance(answer, ImageRefusedError) or image is None or heatmap is None:
        return warn("This file is refused:", str(answer), "alert")
    novel = warn("This does not look like a frontal chest radiograph.", "The answer below means nothing.", "alert")
    heat = colormaps["inferno"](heatmap, alpha=heatmap, bytes=True)  # over the image it is `heatmaps.overlay`
    ill, name, limit = point.classes[1], reply.predictor.name, format_share(point.threshold)
    return f"""<div class="answer{" novel" * answer.novel}" style="--opacity: .6">{novel * answer.novel}
<div><div class="image"><img src="{embed(image)}" alt="The image as the model saw it">
<img class="heat" src="{embed(heat)}" alt="Heat map over the image"></div>
<label>Opacity of the heat map <input type="range" min="0" max="1" step="0.05" value="0.6"
oninput="this.closest('.answer').style.setProperty('--opacity', this.value)"></label>
<p class="soft">The image as the model saw it, {point.image_size} x {point.image_size} pixels. Bright places speak for
{ill}, next to the brightest of this image.</p></div>
<div class="said" role="status">Decision <strong class="decision">{answer.decision}</strong>
<p>Calibrated probability of {ill}: <strong>{format_share(answer.probability)}</strong></p>
<div class="bar" role="meter" aria-label="Probability of {ill}" aria-valuemin="0" aria-valuemax="1"
aria-valuenow="{answer.probability}"><i style="width: {answer.probability:.2%}"></i>
<u style="left: {point.threshold:.2%}"></u></div>
<p>An image is called {ill} from a threshold of <strong>{limit}</strong> on (rule: {point.rule}).</p>
<p class="soft">Model {"version " * name.isdecimal()}{escape(name)}</p></div></div>"""


def describe_model(predictor: Predictor) -> list[str]:
    """Return title and warnings as HTML, and the card of a model as Markdown."""
    warnings = warn("Not a medical device.", "Nothing said here may guide the care of a patient.")
    if predictor.notice:
        warnings += warn(predictor.notice, "What this model says of a real image means nothing.")
    card = re.sub(r"\A---\n.*?\n---\n", "", predictor.card, flags=re.DOTALL)  # what a model hub reads
    return [f"<h1>{TITLE}</h1>{warnings}", card or "This model has no card."]


def warn(what: str, why: str, role: str = "note") -> str:
    """Return a warning as HTML."""
    return f'<p class="warn" role="{role}"><strong>{escape(what)}</strong> {escape(why)}</p>'


def format_share(share: float) -> str:
    """Return a share as per cent, which says 0 or 100 of what is certain only."""
    return "under 0.1 %" if 0 < share < 0.0005 else "over 99.9 %" if 0.9995 <= share < 1 else f"{100 * share:.1f} %"


def show_examples() -> str:
    """Return synthetic images, always the same, as buttons in HTML."""
    buttons = ""
    for name, (seed, kind) in EXAMPLES.items():
        shot = default_rng([seed, 1])
        image = expose(shot, draw_chest(default_rng(seed), shot, (224, 304), kind))
        buttons += f'<button><img src="{embed(image)}" alt="">{name}</button>'
    warned = '<p class="soft">A model that was trained on real images warns of these.</p>'
    return f'<strong>Or a synthetic image, drawn as</strong><div class="examples">{buttons}</div>{warned}'


def embed(pixels: npt.NDArray[np.uint8]) -> str:
    """Return grey values or RGBA as the address of a picture that the page itself holds."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"


class Gate:
    """Let through to Gradio what the page asks for, and let the page ask nobody else."""

    def __init__(self, app: ASGIApp, most: int):
        """Let bodies of up to `most` bytes through."""
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or refuse a request."""

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Content-Security-Policy"] = POLICY
            await send(message)

        told, app = Headers(scope=scope).get("content-length", "0" if scope["method"] != "POST" else "none"), self.app
        if not OPEN.fullmatch(scope["path"].removeprefix(scope.get("root_path", ""))):
            app = JSONResponse({"detail": "Not Found"}, 404)
        elif not told.isdecimal() or int(told) > self.most:
            app = JSONResponse({"detail": f"More than {self.most} bytes, or without Content-Length."}, 413)
        await app(scope, receive, send_with_policy)
