"""The tables of the report, in Markdown."""

from collections.abc import Sequence
from typing import Any

from benchmarks import pipeline
from benchmarks.pipeline import Phase

Ways = dict[str, dict[str, Phase]]  # plain or pipeline, then train or finetune
SERVING = """## Serving

Images of 224 pixels as JPEG, on one machine. Each server was asked for {seconds:g} s by 16 clients, for one image at a
time, each again as soon as it had its answer. Model alone is images/s of its forward pass on batches of 64 in a tight
loop, the mean of before and after; share is images/s over that. Others is what other processes took of the processors
meanwhile. Memory is resident, ten seconds after the start and at the end.

"""


def describe(backbone: str, weights: str) -> str:
    """Say what is trained."""
    none = "no ImageNet weights, which need a download, so that only time and memory mean something"
    said = none if weights == "none" else "ImageNet weights"
    return f"{backbone}, {said}; images of train, validation and test together, no altered copies added.\n\n"


def tabulate_ways(ways: dict[int, Ways]) -> str:
    """Return a table with three rows per number of images: plain, pipeline, and the ratio of both."""
    columns = "images|way|initial, s|fine-tuning, s|both, s|peak memory, GB|initial val AUC|fine-tuned val AUC"
    rows: list[Sequence[str]] = []
    for images, way in ways.items():
        figures = {name: list_figures(way[name]) for name in ("plain", "pipeline")}
        ratio = [a / b for a, b in zip(figures["plain"], figures["pipeline"], strict=True)]
        for name, row in (figures | {"ratio": ratio}).items():
            rows.append((f"{images:,}", name, *(f"{f:.2f}" for f in row[:4]), *(f"{f:.4f}" for f in row[4:])))
    return tabulate(columns.split("|"), rows)


def list_figures(phases: dict[str, Phase]) -> list[float]:
    """Return seconds of both phases and their sum, peak memory in GB, validation AUC after both phases."""
    both = [phases[name] for name in pipeline.PHASES]
    seconds = [phase.seconds for phase in both]
    return [*seconds, sum(seconds), max(phase.memory for phase in both), *(phase.val_auc for phase in both)]


def tabulate_served(ways: list[dict[str, Any]], seconds: float) -> str:
    """Return the section on answering images, see `pipeline.run_serving`; each server was asked for so many seconds."""
    columns = "way|images/s|model alone|share|others|half within, ms|95 % within, ms|errors|memory, GB|at the end"
    return SERVING.format(seconds=seconds) + tabulate(columns.split("|"), [list_served(way) for way in ways])


def list_served(way: dict[str, Any]) -> list[str]:
    """Return a row of that table; the command has neither latency, errors nor memory."""
    rates = [f"{way['rate']:.0f}", f"{way['alone']:.0f}", f"{way['rate'] / way['alone']:.0%}", f"{way['others']:.0%}"]
    if way["errors"] is None:
        return [way["what"], *rates, *[""] * 5]
    latency, memory = [f"{1000 * took:.0f}" for took in way["latency"]], [f"{gb:.3f}" for gb in way["memory"]]
    return [way["what"], *rates, *latency, f"{way['errors']:,}", *memory]


def tabulate(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows)) + "\n"
