"""Measure the plain way and this pipeline in one go: the same images, machine, epochs and seeds."""

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

Plain is what a good notebook does: all images in memory, tf.data, `fit` through the whole model; its seconds are those
of building and fitting only. Pipeline is `stages.train` and `stages.finetune` as whole processes, start, imports,
reading, MLflow and saving included, with nothing computed beforehand. Both start from the same weights, see the images
in the same order, draw the same dropout and keep the epoch of lowest validation loss. Ratio is plain / pipeline. Each
figure is of one run.
"""


@dataclass(frozen=True)
class Form:
    """How much is measured.

    Attributes:
        phases: what both phases are compared for.
        scaling: numbers of images, for the last backbone of `phases`.
        phantoms: images to draw where no folder is given.
        changes: of params.yaml, section by section.
        parts: what is measured unless told otherwise.
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


LONG = Form((("inception_v3", "none", 1000), ("efficientnet_lite0", "imagenet", 1000)), (500, 1000, 2000, 4000))
SHORT = Form(  # below five minutes on two cores
    (("efficientnet_lite0", "imagenet", 80),),
    (40,),
    parts=("phases", "floor", "serving", "experiment"),
    experiments=EXPERIMENTS[2:],
    served=(1000, 15),
)


class Bench:
    """Images and scratch projects below a folder; a method for each of PARTS yields its part of the report."""

    def __init__(self, folder: Path, data: Path | None, form: Form) -> None:
        self.folder, self.form, self.images = folder, form, folder / "images"
        self.compared: dict[Case, Ways] = {}
        if data:
            fetch_folder(data, self.images)
        else:
            draw_phantoms(self.images, form.phantoms, seed=7)
        kind = "images of a folder" if data else "synthetic images, whose results mean nothing clinically"
        self.origin = f"Measured on {pipeline.count_images(self.images):,} {kind}, with the settings of params.yaml.\n"

    def compare(self, case: Case) -> Ways:
        """Train on a sample of the images both ways; what was compared before is not again."""
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
        """Copy this project, to train on these images."""
        source = {"data": {"source": "folder", "path": str(images)}}
        return pipeline.copy_project(self.folder / name, self.form.changes, source, changes)

    @cached_property
    def whole(self) -> tuple[Path, dict[str, float]]:
        """Run the pipeline on all images: the project, and the seconds of each stage."""
        project = self.make_project("whole", self.images, {})
        ran = pipeline.run("dvc repro", project)
        pipeline.commit(project)
        return project, ran.stages | {"all, and DVC's start": ran.seconds}

    def phases(self) -> Iterator[str]:
        """Compare seconds, memory and results."""
        yield "## Both phases\n"
        for case in self.form.phases:
            yield describe(*case[:2]) + tabulate_ways({case[2]: self.compare(case)})

    def scaling(self) -> Iterator[str]:
        """Compare at growing numbers of images."""
        backbone, weights, _ = self.form.phases[-1]
        sizes = {*self.form.scaling, *(case[2] for case in self.compared if case[:2] == (backbone, weights))}
        ways = {images: self.compare((backbone, weights, images)) for images in sorted(sizes)}
        yield "## More images\n\n" + describe(backbone, weights) + tabulate_ways(ways)

    def floor(self) -> Iterator[str]:
        """Time all stages, and the least that training can take."""
        project, stages = self.whole
        yield f"## `dvc repro` of {pipeline.count_images(self.images):,} images, from the raw folder to a version\n"
        yield tabulate(("stage", "seconds"), [(name, f"{seconds:.1f}") for name, seconds in stages.items()])
        passes = pipeline.run_floor(project)
        least, took = sum(row["seconds"] for row in passes), stages["train"] + stages["finetune"]
        rows = [(p["what"], f"{p['images']:,}", f"{p['rate']:,.0f}", f"{p['seconds']:.2f}") for p in passes]
        sums = {"floor: all of these": least, "train and finetune took": took, "took / floor": took / least}
        rows += [(name, "", "", f"{value:.2f}") for name, value in sums.items()]
        yield "The least training can take: every image through every part at the best rate of a tight loop, float32.\n"
        yield tabulate(("part", "images", "images/s", "seconds"), rows)

    def serving(self) -> Iterator[str]:
        """Measure how fast the command and the servers answer."""
        images, seconds = self.form.served
        yield tabulate_served(pipeline.run_serving(self.whole[0], images, seconds), seconds)

    def experiment(self) -> Iterator[str]:
        """Time experiments that change one number, one after the other."""
        project, _ = self.whole
        yield "## One number changed, from the command to new metrics\n"
        ran = {command: pipeline.run(command, project) for command in self.form.experiments}
        rows = [(f"`{command}`", ", ".join(done.stages), f"{done.seconds:.1f}") for command, done in ran.items()]
        yield tabulate(("command", "stages that ran", "seconds"), rows)


def main() -> None:
    """Print the report piece by piece and keep in --out what there is so far."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of images; without it a short form on synthetic ones")
    parser.add_argument("--out", type=Path, help="Markdown file")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="all; without --data all but scaling")
    options = parser.parse_args()
    form = LONG if options.data else SHORT
    try:
        with tempfile.TemporaryDirectory() as folder:
            write_report(Bench(Path(folder), options.data, form), options.parts or form.parts, options.out)
    except InputError as error:
        raise SystemExit(str(error)) from None


def write_report(bench: Bench, parts: Sequence[str], out: Path | None) -> None:
    """Print each piece when it is there, and write all that is there to `out`."""
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
