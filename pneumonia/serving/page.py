"""The page: score a radiograph in the browser and show where the model looks. It loads and stores nothing."""

import asyncio
import json
import re
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import numpy.typing as npt
from fastapi import FastAPI, Request
from httpx import ASGITransport, AsyncClient
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib import colormaps
from numpy.random import default_rng
from PIL import Image
from starlette.routing import Mount

from pneumonia.inference.predictor import Answer, Predictor
from pneumonia.serving.batcher import Batcher, Reply
from pneumonia.serving.gate import Gate
from pneumonia.serving.uploads import read_files
from pneumonia.sources.phantom import draw_chest, expose

TITLE = "Pneumonia on paediatric chest radiographs"
EXAMPLES = {"normal": (5, ""), "bacterial": (3, "bacteria"), "viral": (9, "virus"), "viral, mild": (10, "virus")}
OPACITY = 0.6  # of a heat map, as in `heatmaps.overlay`
ROOT = "http://page"  # the address of the page while it is built
TEMPLATES = Path(__file__).with_name("templates")
ENVIRONMENT = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)


def mount_page(app: FastAPI, batcher: Batcher, max_upload_mb: int) -> FastAPI:
    """Mount the page at /, behind the routes that `app` has already; `batcher` has to run while `app` does."""

    @app.post("/page/answer", include_in_schema=False)
    async def answer(request: Request) -> list[str]:
        content = await read_files(request, 1)
        request.state.images = 1
        reply = await batcher.predict(content, explain=True)
        return [await asyncio.to_thread(render_answer, reply), *render_model(reply.predictor)]

    @app.get("/page/model", include_in_schema=False)
    async def introduce() -> list[str]:
        assert batcher.predictor, "the batcher is not running"
        return render_model(batcher.predictor)

    async def mount() -> str:
        gr.mount_gradio_app(
            app, build_page(max_upload_mb), "/", footer_links=[], run_history=False, show_error=False,
            ssr_mode=False, mcp_server=False, enable_monitoring=False, pwa=False, css=read("page.css"),
            theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            root_path=ROOT,
        )  # fmt: skip
        async with AsyncClient(transport=ASGITransport(find_mounted(app).app), base_url=ROOT) as client:
            return (await client.get("/")).text

    with ThreadPoolExecutor(1) as thread:  # with an event loop of its own: without one Gradio leaves several open
        page = thread.submit(asyncio.run, mount()).result()
    # The page finds its files beside itself, wherever a proxy mounts it.
    page = page.replace(json.dumps(ROOT), 'new URL(".", location).href.slice(0, -1)')
    mounted = find_mounted(app)
    mounted.app = Gate(mounted.app, re.sub('<link rel="manifest".*?>', '<link rel="icon" href="favicon.ico">', page))
    return app


def find_mounted(app: FastAPI) -> Mount:
    """Return what is mounted last."""
    mounted = app.routes[-1]
    assert isinstance(mounted, Mount)
    return mounted


def build_page(max_upload_mb: int) -> gr.Blocks:
    """Return the page. It calls no function of the server: its scripts ask the routes of `mount_page`."""
    script = read("page.js")
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        heading = gr.HTML()
        with gr.Row():
            with gr.Column(min_width=280):
                chooser = gr.HTML(
                    render("chooser.html", max_upload_mb=max_upload_mb), js_on_load=script, max_mb=max_upload_mb
                )
            with gr.Column(min_width=280):
                examples = gr.HTML(render_examples(), js_on_load=script, apply_default_css=False)
        result = gr.HTML(js_on_load=script)
        with gr.Accordion("Model card", open=False):
            card = gr.Markdown(elem_classes="card")
        chosen = [chooser.upload, examples.upload]
        gr.on(chosen, None, None, result, js="() => '<p role=status>Looking at it ...</p>'")
        gr.on(chosen, None, None, [result, heading, card], js="() => window.answer", trigger_mode="multiple")
        page.load(None, None, [heading, card], js="() => fetch('page/model').then(answer => answer.json())")
    return page


def read(name: str) -> str:
    """Return the text of a file beside the templates."""
    return (TEMPLATES / name).read_text()


def render(template: str, **values: Any) -> str:
    """Return a template filled in, with every value escaped."""
    return ENVIRONMENT.get_template(template).render(values).strip()


def render_answer(reply: Reply) -> str:
    """Return the answer to the one image of a request as HTML, or why the file was refused."""
    (image,), (answer,), (heatmap,) = reply.images, reply.answers, reply.heatmaps
    if image is None or heatmap is None or not isinstance(answer, Answer):
        return render("answer.html", refused=str(answer))
    name = Path(reply.predictor.name).name  # of a path no more: see `schemas.describe_model`
    colours = colormaps["inferno"](heatmap, alpha=heatmap, bytes=True)  # on top of the image it is `heatmaps.overlay`
    return render(
        "answer.html", refused="", answer=answer, point=reply.predictor.point, model=name,
        image=embed(image), heatmap=embed(colours), opacity=OPACITY,
    )  # fmt: skip


def render_model(predictor: Predictor) -> list[str]:
    """Return the heading with its warnings as HTML, and the model card as Markdown."""
    card = re.sub(r"\A---\n.*?\n---\n", "", predictor.card, flags=re.DOTALL)  # metadata for a model hub
    return [render("heading.html", title=TITLE, notice=predictor.notice), card or "This model has no card."]


def render_examples() -> str:
    """Return synthetic radiographs, the same at each start, as buttons in HTML."""
    images = {}
    for name, (seed, kind) in EXAMPLES.items():
        exposure = default_rng([seed, 1])
        images[name] = embed(expose(exposure, draw_chest(default_rng(seed), exposure, (224, 304), kind)))
    return render("examples.html", examples=images)


def embed(pixels: npt.NDArray[np.uint8]) -> str:
    """Return grey values (height, width) or RGBA (height, width, 4) as the data URI of a PNG."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"


def format_percent(share: float) -> str:
    """Return a share, 0 to 1, as a percentage that shows 0 and 100 only if they are exact."""
    return "under 0.1%" if 0 < share < 0.0005 else "over 99.9%" if 0.9995 <= share < 1 else f"{100 * share:.1f}%"


ENVIRONMENT.filters["percent"] = format_percent
