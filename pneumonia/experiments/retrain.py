"""Retrain as CI does: run the pipeline and judge its model against that of another commit."""

import re
import shlex
import subprocess
from pathlib import Path

from pneumonia.core.errors import InputError
from pneumonia.core.files import ensure_digests
from pneumonia.core.params_file import load_params, refuse_interpolation
from pneumonia.experiments.baseline import reproduce
from pneumonia.experiments.compare import RECIPES, check_recipes
from pneumonia.experiments.dvc_lock import mend_lock
from pneumonia.experiments.judgement import METRICS, PREDICTIONS, SPLIT, Judgement, judge_against, read_gates
from pneumonia.experiments.summary import write_failure, write_judgement
from pneumonia.registry.evaluated import ReplacedError, ensure_locked

# What a judgement rests on, as dvc.yaml names it.
JUDGED = (*map(Path, ("models/finetuned.keras", "models/operating_point.json", "models/novelty.npz",
                      "data/dataset.pkl", "data/splits.csv")), METRICS, PREDICTIONS)  # fmt: skip


def retrain(base: str, recipe: str, settings: str, source: str, out: Path) -> None:
    """Run the pipeline up to the report, and judge its model against that of another commit. Nothing is registered.

    Writes summary.md for people and DVC's plots of both models, plots/index.html, into the folder `out`. Whatever
    happens, the summary says it: it is written before the first step, and again at the end or when a step fails.

    Args:
        base: the commit; where its pipeline fails, floors alone decide, and the summary says so.
        recipe, settings, source: changes to the committed parameters, see `list_changes`; empty for none.
        out: folder to write to.

    Raises:
        InputError: the pipeline fails, the model is below a floor or worse than the baseline, or of either not what was
            evaluated.
    """
    name = base[:7] if re.fullmatch("[0-9a-f]{40}", base) else base.removeprefix("origin/")
    summary = out / "summary.md"
    write_failure(summary, name, "It was killed, or is still running.")
    try:
        judgement = _retrain(base, name, recipe, settings, source, summary)
    except BaseException as error:  # Ctrl+C too
        write_failure(summary, name, _describe(error))
        raise
    print(f"This model is {judgement.verdict}. Details: {summary}")
    if judgement.failed:
        raise InputError(
            f"This model is refused: {judgement.reason}.",
            expected=f"a model that passes all gates, with that of {name} in the champion's place",
            remedy="keep the model of the baseline, or change register.gates and tell the reviewer why",
        )


def _retrain(base: str, name: str, recipe: str, settings: str, source: str, summary: Path) -> Judgement:
    mend_lock()
    changes, warnings, committed = list_changes(recipe, settings, source), [], load_params().register_
    try:
        commit = reproduce(base)
    except ReplacedError:
        raise
    except InputError as error:
        commit = ""
        warnings.append(f"There is no baseline, and floors alone decide: {' '.join(str(error).splitlines())}")
    run_pipeline(changes)
    ensure_digests(JUDGED, PREDICTIONS.with_name("digests.json"))
    ensure_locked((*JUDGED, SPLIT))
    params = load_params()
    if params.register_ != committed:
        raise _refuse_change("The recipe")
    gates = read_gates(commit, params.register_.gates) if commit else params.register_.gates
    if gates != params.register_.gates:
        warnings.append(f"The gates are those of {name}; the ones of this commit count once it is merged.")
    judgement = judge_against(commit, name, gates)
    write_judgement(summary, judgement, commit, warnings, params.data.notice)
    return judgement


def _describe(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "It was interrupted."
    return str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"


def list_changes(recipe: str, settings: str, source: str) -> list[str]:
    """Return changes to the committed parameters as `name=value`, as for `dvc exp run -S`.

    Args:
        recipe: name of a file in conf/recipe, empty for the committed parameters.
        settings: `name=value` separated by blanks, quoted as in a shell.
        source: value of data.source, empty for the committed one.

    Raises:
        InputError: the recipe does not exist, the settings cannot be parsed or change a gate or a file, or something
            is interpolated.
    """
    check_recipes([recipe] * bool(recipe))
    for path in sorted(RECIPES.parent.rglob("*.yaml")):
        refuse_interpolation(str(path), path.read_text())
    refuse_interpolation("A setting", f"{settings} {source}")
    try:
        changes = shlex.split(settings)
    except ValueError as error:
        raise InputError(
            f"The settings {settings!r} cannot be parsed: {error}.",
            expected="name=value, separated by blanks",
            remedy="close the quotation",
        ) from None
    for change in changes:
        # DVC would also take `dvc.yaml:stages.fetch.cmd=...`, and Hydra `++`, `~`, `@` and settings of its own.
        if not re.match(r"(?!register\.|hydra\.)[a-z_]+(\.[a-z_]+)+=", change):
            raise _refuse_change(f"The setting {change!r}")
    return [f"recipe={recipe}"] * bool(recipe) + changes + [f"data.source={source}"] * bool(source)


def _refuse_change(what: str) -> InputError:
    return InputError(
        f"{what} changes more than parameters of the model.",
        expected="section.name=value, outside of the section register with the gates that judge the model",
        remedy="change anything else in a pull request of its own",
    )


def run_pipeline(changes: list[str]) -> None:
    """Run the pipeline up to the report: `dvc repro`, or `dvc exp run` where parameters change.

    Raises:
        InputError: a stage fails.
    """
    overrides = [part for change in changes for part in ("-S", change)]
    command = ["dvc", "exp", "run", *overrides, "report"] if overrides else ["dvc", "repro", "report"]
    if subprocess.run(command).returncode:
        raise InputError(
            "The pipeline failed.",
            expected="stages that succeed; DVC's message above names the one that failed",
            remedy=shlex.join(command),
        )
