"""Tables of the report in Markdown."""

from collections.abc import Sequence
from typing import Any

from benchmarks import pipeline
from benchmarks.pipeline import Phase

Ways = dict[str, dict[str, Phase]]  # plain or pipeline, then train or finetune
SERVING = """## Serving

JPEG files of 224 pixels, clients and server on one machine. For {seconds:g} s, 16 clients sent one radiograph at a
time, the next as soon as the answer arrived. "Model alone" is the forward pass on batches of 64 in a tight loop, the
mean of before and after; "share" is the throughput divided by it. "Others" is the share of the processors that other
processes used meanwhile. Memory is resident, ten seconds after the start and at the end.

"""


def describe(backbone: str, weights: str) -> str:
    """Return a sentence on what is trained."""
    none = "random weights (ImageNet's need a download), so only time and memory are meaningful"
    used = none if weights == "none" else "ImageNet weights"
    return f"{backbone}, {used}; radiographs of train, validation and test together, without altered copies.\n\n"


def tabulate_ways(ways: dict[int, Ways]) -> str:
    """Return a table with three rows per number of images: plain, pipeline and their ratio."""
    columns = "radiographs|way|initial, s|fine-tuning, s|both, s|peak memory, GB|initial val AUC|fine-tuned val AUC"
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
    """Return the section on serving from the rows of `pipeline.run_serving`; each server was loaded for `seconds`."""
    columns = "way|radiographs/s|model alone|share|others|median, ms|95th percentile, ms|errors|memory, GB|at the end"
    return SERVING.format(seconds=seconds) + tabulate(columns.split("|"), [list_served(way) for way in ways])


def list_served(way: dict[str, Any]) -> list[str]:
    """Return a row of the table on serving; the command has neither latency nor errors nor memory."""
    rates = [f"{way['rate']:.0f}", f"{way['alone']:.0f}", f"{way['rate'] / way['alone']:.0%}", f"{way['others']:.0%}"]
    if way["errors"] is None:
        return [way["what"], *rates, *[""] * 5]
    latency, memory = [f"{1000 * took:.0f}" for took in way["latency"]], [f"{gb:.3f}" for gb in way["memory"]]
    return [way["what"], *rates, *latency, f"{way['errors']:,}", *memory]


def tabulate(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows)) + "\n"
