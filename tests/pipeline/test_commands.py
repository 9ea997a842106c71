"""Every command of README and docs runs in a fresh clone, or stands here with the reason why it does not."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from dicoms import encode
from projects import ROOT, link_environment, run

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# What a command looks like, with its page in front: why it does not run here.
WHY_NOT = {
    r"apt-get|pip install|setup-server|data\.source=kaggle": "asks a registry or a data set's host for gigabytes",
    r"docker": "needs Docker; tests/pipeline/test_container.py assembles the image and runs its command",
    r"-S recipe=|make compare|from_layer=auto": "trains for minutes; tests/experiments/test_compare.py runs both kinds",
    r"pneumonia audit": "needs a cross-validation; tests/audit runs it",
    r"crossval": "trains for minutes; tests/crossval/test_run.py runs it",
    r"make retrain": "trains for minutes; tests/pipeline/test_workflows.py runs it",
    r"make test": "runs this test",
    r"benchmarks\.engines": "needs packages that the project does not",
    r"benchmarks\.hostile": "attacks a service for minutes; tests/serving/test_guard.py tests the limits",
    r"make (ui|serve)|curl": "serves until it is stopped; tests/cli/test_serve.py and tests/tracking/test_server.py do",
    r"serving\.md: (export|mlflow|echo)": "serves until it is stopped; tests/registry/test_mlflow_model.py does",
    r"server\.md: (export|mkdir|initdb|pg_|mlflow|  |make repro|cp)": "PostgreSQL: tests/tracking/test_server.py",
    r"registry (promote|rollback|resume)": "needs further versions; tests/cli/test_registry.py has them",
    r"(s3|gs|azure|ssh)://|endpointurl": "needs an account; tests/pipeline/test_remotes.py has a server of its own",
    r"retraining\.md: (make push|dvc pull|dvc add|git add)": "needs a remote; tests/pipeline/test_remotes.py has one",
}  # fmt: skip
SHORTER = {  # tests/pipeline/test_repro.py runs the stages that follow
    r"(data\.path=\S+)": r"\1 split",
    r"(train\.learning_rate=1e-3)": r"\1 train",
    r"(finetune && dvc exp run --run-all)": r"\1 --jobs 2",
}


def list_commands() -> list[tuple[str, str]]:
    """Return every line of shell and every block of Python in the pages, with the page's name."""
    found: list[tuple[str, str]] = []
    for page in PAGES:
        for kind, block in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            assert kind in ("sh", "python", "json", "nginx", ""), f"{page.name} has a block of {kind}"
            lines = block.replace("\\\n", "").splitlines() if kind == "sh" else [block] if kind == "python" else []
            found += [(page.name, line) for line in lines]
    return found


def find_reasons(page: str, command: str) -> list[str]:
    return [pattern for pattern in WHY_NOT if re.search(pattern, f"{page}: {command}")]


def test_every_reason_holds_for_a_command_and_names_tests_that_exist() -> None:
    used = {pattern for page, command in list_commands() for pattern in find_reasons(page, command)}
    assert WHY_NOT.keys() - used == set()
    named = re.findall(r"tests/\S+\.py", " ".join(WHY_NOT.values()))
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.fixture
def clone(once: Path, tmp_path: Path) -> Path:
    """Return a fresh clone of a project whose dvc.lock is committed, with DVC's cache as `dvc pull` fills it."""
    origin = shutil.copytree(once, tmp_path / "origin", symlinks=True)
    run("git", "add", "-f", "dvc.lock", cwd=origin)
    run("git", "commit", "-qm", "the lock", cwd=origin)
    run("git", "clone", "-q", str(origin), str(tmp_path / "clone"), cwd=tmp_path)
    for name in ("name", "email"):
        run("git", "config", f"user.{name}", "t@t", cwd=tmp_path / "clone")
    return tmp_path / "clone"


def fill(clone: Path, once: Path, outside: Path) -> None:
    """Install what is installed here, take DVC's cache, and put images where the pages name some."""
    link_environment(clone)
    shutil.copytree(once / ".dvc" / "cache", clone / ".dvc" / "cache")
    shutil.copytree(once / "data" / "raw", outside / "images")
    for folder in (clone, clone / "more"):
        folder.mkdir(exist_ok=True)
        for name in ("image.dcm", "b.dcm"):
            (folder / name).write_bytes(encode(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)))
    (clone / "images").mkdir()
    for target in ("image.jpeg", "a.jpeg", "images/c.jpeg"):
        shutil.copy(next(outside.glob("images/*/*/*")), clone / target)


def test_every_command_runs_in_a_fresh_clone(clone: Path, once: Path, tmp_path: Path) -> None:
    fill(clone, once, tmp_path)
    failed: dict[str, str] = {}
    for page, command in list_commands():
        if find_reasons(page, command):
            continue
        for pattern, instead in SHORTER.items():
            command = re.sub(pattern, instead, command)
        command = command.replace("/my/images", str(tmp_path / "images")).replace("/mnt/share", str(tmp_path))
        if "\n" in command:
            (clone / "block.py").write_text(command)
            command = "MLFLOW_TRACKING_URI=sqlite:///mlruns/mlflow.db python -m block"
        done = run("bash", "-ec", command, cwd=clone, check=False)
        if done.returncode or "Traceback" in done.stderr:
            failed[f"{page}: {command}"] = done.stdout[-2000:] + done.stderr[-2000:]
    assert failed == {}, "\n".join(f"{command}\n{said}" for command, said in failed.items())


def test_an_experiment_runs_first_in_a_clone_without_cache(clone: Path) -> None:
    run("dvc", "exp", "run", "-S", "data.images=48", "split", cwd=clone)
    assert (clone / "data" / "splits.csv").exists()


@pytest.mark.parametrize("target", ["repro", "retrain", "compare", "crossval"])
def test_a_downloaded_archive_is_refused_before_anything_is_installed(target: str, project: Path) -> None:
    shutil.rmtree(project / ".git")
    done = run("make", target, cwd=project, check=False)
    assert done.returncode
    assert re.search(r"not in a git repository, .*\n  Expected: .*\n  Remedy: .*git init", done.stderr)
    assert not (project / ".venv").exists() and "Installing" not in done.stdout
