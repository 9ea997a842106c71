"""Compare a plain notebook with this pipeline in one call: same images, machine, epochs and seeds."""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks import pipeline
from benchmarks.tables import Ways, describe, tabulate, tabulate_served, tabulate_ways
from pneumonia.core.errors import InputError
from pneumonia.core.files import replacing
from pneumonia.core.paths import list_files
from pneumonia.sources.folder import fetch_folder
from pneumonia.sources.phantom import draw_phantoms

Case = tuple[str, str, int]  # backbone, weights, number of images
PARTS = ("phases", "scaling", "floor", "serving", "experiment")
EXPERIMENTS = (
    "dvc exp run -S train.learning_rate=1e-3",
    "dvc exp run -S finetune.learning_rate=2e-4",
    "dvc exp run -S train.learning_rate=2e-3 train",
)
INTRODUCTION = """# Benchmarks

"Plain" is a good notebook: all images in memory, tf.data, `fit` through the whole model; only building and fitting
are timed. "Pipeline" is `stages.train` and `stages.finetune` as whole processes, from start and imports to MLflow and
saving, with empty caches. Both start from the same weights, see the images in the same order, draw the same dropout and
keep the epoch with the lowest validation loss. The ratio is plain / pipeline. Each figure comes from one run.
"""


@dataclass(frozen=True)
class Form:
    """How much to measure.

    Attributes:
        phases: cases for which both training phases are compared.
        scaling: numbers of images, for the last backbone of `phases`.
        phantoms: number of synthetic images, used if no folder is given.
        changes: to params.yaml, section by section.
        parts: measured by default.
        experiments: commands to time, one after the other.
        served: images for the command, seconds for each server.
    """

    phases: tuple[Case, ...]
    scaling: tuple[int, ...]
    phantoms: int = 80
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    parts: Sequence[str] = PARTS
    experiments: Sequence[str] = EXPERIMENTS
    served: tuple[int, float] = (4000, 60)


LONG = Form((("efficientnet_lite0", "imagenet", 1000),), (250, 500), served=(2000, 30))  # half an hour on two cores
SHORT = Form(  # under five minutes on two cores
    (("efficientnet_lite0", "imagenet", 80),),
    (40,),
    parts=("phases", "floor", "serving", "experiment"),
    experiments=EXPERIMENTS[2:],
    served=(1000, 15),
)


class Bench:
    """Images and scratch projects in a folder; one method per entry of PARTS yields that part of the report."""

    def __init__(self, folder: Path, data: Path | None, form: Form) -> None:
        self.folder, self.form, self.images = folder, form, folder / "images"
        self.compared: dict[Case, Ways] = {}
        if data:
            fetch_folder(data, self.images)
        else:
            draw_phantoms(self.images, form.phantoms, seed=7)
        kind = "radiographs from a folder" if data else "synthetic radiographs, whose results mean nothing clinically"
        self.origin = f"Measured on {len(list_files(self.images)):,} {kind}, with the settings of params.yaml.\n"

    def compare(self, case: Case) -> Ways:
        """Train on a sample of the images both ways, once per case."""
        if case not in self.compared:
            backbone, weights, number = case
            name = f"{backbone}-{number}"
            images = self.folder / "samples" / name
            pipeline.sample_images(self.images, number, images)
            model = {"backbone": backbone, "weights": weights}
            project = self.make_project(name, images, {"augment": {"balance": "none"}, "model": model})
            pipeline.run("dvc repro augment", project)
            self.compared[case] = {"plain": pipeline.run_plain(project), "pipeline": pipeline.run_pipeline(project)}
        return self.compared[case]

    def make_project(self, name: str, images: Path, changes: dict[str, dict[str, Any]]) -> Path:
        """Copy this project and point it to these images."""
        source = {"data": {"source": "folder", "path": str(images)}}
        return pipeline.copy_project(self.folder / name, self.form.changes, source, changes)

    @cached_property
    def whole(self) -> tuple[Path, dict[str, float]]:
        """Run the pipeline on all images; return the project and the seconds of each stage."""
        project = self.make_project("whole", self.images, {})
        ran = pipeline.run("dvc repro", project)
        pipeline.commit(project)
        return project, ran.stages | {"all, and DVC's start": ran.seconds}

    def phases(self) -> Iterator[str]:
        """Compare time, memory and results."""
        yield "## Both phases\n"
        for case in self.form.phases:
            yield describe(*case[:2]) + tabulate_ways({case[2]: self.compare(case)})

    def scaling(self) -> Iterator[str]:
        """Compare for increasing numbers of images."""
        backbone, weights, _ = self.form.phases[-1]
        sizes = {*self.form.scaling, *(case[2] for case in self.compared if case[:2] == (backbone, weights))}
        ways = {images: self.compare((backbone, weights, images)) for images in sorted(sizes)}
        yield "## More radiographs\n\n" + describe(backbone, weights) + tabulate_ways(ways)

    def floor(self) -> Iterator[str]:
        """Time all stages, and find the least that training can take."""
        project, stages = self.whole
        number = f"{len(list_files(self.images)):,}"
        yield f"## `dvc repro` of {number} radiographs, from the raw folder to a version\n"
        yield tabulate(("stage", "seconds"), [(name, f"{seconds:.1f}") for name, seconds in stages.items()])
        passes = pipeline.run_floor(project)
        least, took = sum(row["seconds"] for row in passes), stages["train"] + stages["finetune"]
        rows = [(p["what"], f"{p['images']:,}", f"{p['rate']:,.0f}", f"{p['seconds']:.2f}") for p in passes]
        sums = {"floor: sum of these": least, "train and finetune": took, "train and finetune / floor": took / least}
        rows += [(name, "", "", f"{value:.2f}") for name, value in sums.items()]
        yield "The least training can take: each image passes each part at the best rate of a tight loop, float32.\n"
        yield tabulate(("part", "radiographs", "radiographs/s", "seconds"), rows)

    def serving(self) -> Iterator[str]:
        """Measure the throughput of the command and the servers."""
        images, seconds = self.form.served
        yield tabulate_served(pipeline.run_serving(self.whole[0], images, seconds), seconds)

    def experiment(self) -> Iterator[str]:
        """Time experiments that change one value, one after the other."""
        project, _ = self.whole
        yield "## One value changed, from the command to new metrics\n"
        ran = {command: pipeline.run(command, project) for command in self.form.experiments}
        rows = [(f"`{command}`", ", ".join(done.stages), f"{done.seconds:.1f}") for command, done in ran.items()]
        yield tabulate(("command", "stages that ran", "seconds"), rows)


def main() -> None:
    """Print the report section by section and keep what exists so far in --out."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of radiographs; by default a short form on synthetic ones")
    parser.add_argument("--out", type=Path, help="Markdown file")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="all by default; without --data all but scaling")
    options = parser.parse_args()
    form = LONG if options.data else SHORT
    try:
        with tempfile.TemporaryDirectory() as folder:
            write_report(Bench(Path(folder), options.data, form), options.parts or form.parts, options.out)
    except InputError as error:
        raise SystemExit(str(error)) from None


def write_report(bench: Bench, parts: Sequence[str], out: Path | None) -> None:
    """Print each section as soon as it is measured, and rewrite `out` with all sections so far."""
    pieces, machine = [INTRODUCTION, bench.origin], pipeline.describe_machine()
    for part in parts:
        for piece in getattr(bench, part)():
            print(piece, flush=True)
            pieces.append(piece)
            if out:
                with replacing(out) as beside:
                    beside.write_text("\n".join([*pieces, machine]))
    print(machine)


if __name__ == "__main__":
    main()
