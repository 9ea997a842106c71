"""Refuse to judge or register what is not what the pipeline made and evaluated."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from dvc_data.hashfile.build import build
from dvc_data.hashfile.db import HashFileDB
from dvc_objects.fs.local import localfs

from pneumonia.core.dataset import read_dataset
from pneumonia.core.errors import InputError
from pneumonia.core.files import ensure_digests
from pneumonia.core.params import ComputeParams
from pneumonia.core.runtime import use_precision
from pneumonia.core.tables import read_predictions
from pneumonia.registry.gate import may_register
from pneumonia.registry.package import Package
from pneumonia.registry.versions import find_version

TOLERANCE = {"float32": 1e-4, "bfloat16": 0.05}  # of a probability, from one processor to another


class ReplacedError(InputError):
    """A file is not the one that the pipeline made."""


def ensure_evaluated(
    package: Package, dataset: Path, others: Sequence[Path], unused: Sequence[Path], compute: ComputeParams
) -> None:
    """Refuse files that are not those of the last evaluation, not those of dvc.lock, or do not go together.

    The list of the evaluation names the one file that was replaced; dvc.lock, which git keeps, tells when the list was
    replaced with it; and of a new version, the model is asked for some of its stored scores again.

    Args:
        package: files to register.
        dataset: pickle of the augment stage.
        others: what else the evaluation used or wrote.
        unused: what it did not, and is registered or recorded all the same.
        compute: its precision bounds how much scores may differ.

    Raises:
        InputError: as said.
    """
    used = (dataset, *others, *package[:4])
    ensure_digests(used, package.predictions.with_name("digests.json"))
    ensure_locked((*used, package.model_card, *unused))
    if may_register() and not find_version(package.sha256):
        ensure_scores(package, dataset, compute)


def ensure_locked(files: Sequence[Path], project: Path = Path()) -> None:
    """Refuse outputs that are not those of dvc.lock, by their content: DVC trusts the names in its cache and remote.

    Args:
        files: relative to the project, as dvc.yaml names them, or files in a folder that it names.
        project: folder that holds dvc.lock.

    Raises:
        ReplacedError: a file or a folder is another one, is missing or is no output of the pipeline.
        InputError: dvc.lock cannot be read.
    """
    try:
        stages: Any = yaml.safe_load((project / "dvc.lock").read_text())["stages"].values()
        expected = {Path(out["path"]): out["md5"] for stage in stages for out in stage.get("outs", ())}
    except (OSError, ValueError, yaml.YAMLError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"dvc.lock, which says what the pipeline made, cannot be read: {error!r}.",
            expected="the file that DVC writes while the pipeline runs, and that git keeps",
            remedy="make repro",
        ) from error
    for out in dict.fromkeys(next((p for p in (file, *file.parents) if p in expected), file) for file in files):
        if out not in expected or not (project / out).exists() or digest_output(project / out) != expected[out]:
            raise ReplacedError(
                f"{out} is not what the pipeline made.",
                expected=f"the MD5 in dvc.lock: {expected.get(out, 'there is none')}",
                remedy="rm -r .dvc/cache && dvc pull, from a remote with verify = true; or dvc repro --force",
            )


def digest_output(path: Path) -> str | None:
    """Return the MD5 of a file or folder as DVC computes it, without its memory of files that seem unchanged."""
    return build(HashFileDB(localfs, ""), str(path.absolute()), localfs, "md5", dry_run=True)[2].hash_info.value


def ensure_scores(package: Package, dataset: Path, compute: ComputeParams) -> None:
    """Refuse a model that scores the first, middle and last test image otherwise than stored.

    Raises:
        InputError: it does, or a file is damaged.
    """
    from pneumonia.inference.predictor import Predictor  # loads TensorFlow, which a known version does not need

    use_precision(compute.precision)
    test, stored = read_dataset(dataset).test, read_predictions(package.predictions).set_index("path")["finetuned"]
    asked = [0, len(test.labels) // 2, len(test.labels) - 1]
    answers = Predictor.read(package.model).predict(test.images[asked])
    expected = stored.reindex(test.paths[asked])
    for path, answer, score in zip(expected.index, answers, expected, strict=True):
        if not np.isclose(answer.probability, score, rtol=0, atol=TOLERANCE[compute.precision]):
            raise InputError(
                f"{package.model} gives {path} the probability {answer.probability:.4f}.",
                expected=f"{score:.4f}, as in {package.predictions}",
                remedy="dvc repro --force evaluate",
            )
