"""The retraining workflow, its shell lines run in a clone as on a runner of GitHub."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from projects import NO_GATES, ROOT, TINY, clean_environment, copy_project, link_environment, run, set_params

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
JOBS = yaml.safe_load((ROOT / ".github" / "workflows" / "retrain.yml").read_text())["jobs"]
JOB = JOBS["retrain"]
GATES = NO_GATES | {"min_roc_auc": 0.6, "min_sensitivity": 0.1}
SEEING = {  # the tiny backbone sees nothing whatever its training
    "data": {"images": 200}, "model": {"backbone": "efficientnet_lite0", "weights": "imagenet", "image_size": 80},
    "train": {"epochs": 8, "learning_rate": 3e-3}, "finetune": {"epochs": 1}, "register": {"gates": GATES},
}  # fmt: skip
BLIND = {"model": TINY["model"], "train": {"learning_rate": 1e-6, "epochs": 1}, "finetune": {"learning_rate": 1e-7}}
NOWHERE = "0" * 40  # what GitHub calls the commit before the first


def commit(project: Path, message: str) -> None:
    run("git", "add", "-A", cwd=project)
    run("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", message, cwd=project)


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository with main, whose model sees something, and the branch blind, whose model sees nothing."""
    project = copy_project(tmp_path_factory.mktemp("upstream") / "project")
    for lock in ("requirements.txt", "requirements-remotes.txt"):
        shutil.copy(ROOT / lock, project)
    set_params(project, SEEING)
    commit(project, "a model that sees something")
    run("git", "branch", "-M", "main", cwd=project)
    run("git", "switch", "-qc", "blind", cwd=project)
    set_params(project, BLIND)
    commit(project, "a model that sees nothing")
    run("git", "switch", "-q", "main", cwd=project)
    return project


@pytest.fixture
def clone(upstream: Path, tmp_path: Path) -> Path:
    """Return a clone on a runner: its own files, packages as installed, DVC's cache as GitHub restores it."""
    runner = tmp_path / "runner"
    run("git", "clone", "-q", str(upstream), str(runner), cwd=tmp_path)
    link_environment(runner)
    cache = upstream.parent / "restored"
    cache.mkdir(exist_ok=True)
    (runner / ".dvc" / "cache").symlink_to(cache)
    return runner


def run_job(clone: Path, event: str, base: str = "origin/main", **inputs: str) -> tuple[int, str, str]:
    """Run the job's own shell lines as a runner does; an expression that is not listed here fails the test.

    Returns:
        Exit status of the first step that failed, or 0; output of all steps; the job's summary.
    """
    ref = "refs/pull/1/merge" if event == "pull_request" else inputs.pop("ref", "refs/heads/main")
    promote = "github.event_name != 'workflow_dispatch' || inputs.promote"
    before = "github.event_name == 'push' && github.event.before || format('origin/{0}', github.base_ref || 'main')"
    known = {"recipe": "", "overrides": "", "source": ""} | inputs
    known = {f"inputs.{name}": value for name, value in known.items()} | {
        before: base, promote: inputs.get("promote", "true"), "github.actor": "octocat",
        "github.ref == 'refs/heads/main'": str(ref == "refs/heads/main"), "!cancelled()": "True",
    }  # fmt: skip

    def evaluate(text: str) -> str:
        return re.sub(r"\$\{\{ (.+?) \}\}", lambda m: "" if "secrets." in m[1] else known[m[1]], str(text))

    files = {name: clone.parent / name for name in ("GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT")}
    github = {"CI": "true", "GITHUB_ACTIONS": "true", "GITHUB_EVENT_NAME": event, "GITHUB_RUN_ID": "17"}
    github |= {"GITHUB_REF": ref}
    environment = clean_environment() | github | {name: str(path) for name, path in files.items()}
    status, printed = 0, ""
    for step in (step for step in JOB["steps"] if "run" in step):
        condition = step.get("if", "True")
        if evaluate(condition) != "True" or (status and "cancelled()" not in condition):
            continue
        done = subprocess.run(
            ["bash", "-e", "-c", step["run"]], cwd=clone, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
            env=environment | {name: evaluate(value) for name, value in step.get("env", {}).items()},
        )  # fmt: skip
        status, printed = status or done.returncode, printed + done.stdout
    summary = files["GITHUB_STEP_SUMMARY"]
    return status, printed, summary.read_text() if summary.exists() else ""


def read_gain(summary: str, metric: str) -> float:
    row = re.search(rf"^\| {metric} \| ([+-][\d.]+) \|", summary, re.MULTILINE)
    assert row, summary
    return float(row[1])


def test_a_pull_request_that_makes_the_model_worse_ends_red_with_the_reason(clone: Path) -> None:
    run("git", "switch", "-q", "blind", cwd=clone)
    status, printed, summary = run_job(clone, "pull_request")
    assert status, printed
    assert "This model is refused: " in printed and "Traceback" not in printed
    assert summary.startswith("# Retraining: refused")
    assert re.search(r"\*\*no\*\*", summary)
    assert read_gain(summary, "roc_auc") < 0


def test_a_pull_request_that_makes_the_model_better_ends_green_and_says_by_how_much(clone: Path) -> None:
    status, printed, summary = run_job(clone, "pull_request", base="origin/blind")
    assert status == 0, printed
    assert summary.startswith("# Retraining: better than blind")
    assert read_gain(summary, "roc_auc") > 0
    assert "train.learning_rate" in summary and "xychart-beta" in summary
    assert (clone / "reports" / "retraining" / "plots" / "index.html").exists()
    assert not (clone / "mlruns" / "server").exists() and "champion" not in printed


def test_a_push_to_main_registers_and_promotes_and_leaves_a_complete_lock(clone: Path) -> None:
    head = run("git", "rev-parse", "HEAD", cwd=clone).stdout.strip()
    status, printed, summary = run_job(clone, "push", base=head)
    assert status == 0, printed
    assert summary.startswith(f"# Retraining: the same as {head[:7]}\n")
    assert "version 1 is the new champion" in printed
    assert list(yaml.safe_load((clone / "dvc.lock").read_text())["stages"])[-1] == "register"
    assert run("git", "status", "--short", cwd=clone).stdout.split() == ["??", "dvc.lock"]


@pytest.mark.parametrize("typed, said", [
    ({"recipe": "$(touch pwned)"}, "There is no recipe '$(touch pwned)'."),
    ({"overrides": "finetune.epochs=1 'evaluate.seed=4$(touch pwned)'"}, "The pipeline failed."),
    ({"overrides": "register.gates.margin_roc_auc=1.0"}, "changes more than parameters"),
    ({"overrides": "model.weights=${oc.env:PATH}"}, "A setting holds ${oc.env:PATH}."),
])  # fmt: skip
def test_what_a_person_types_reaches_the_pipeline_and_no_shell(typed: dict[str, str], said: str, clone: Path) -> None:
    status, printed, summary = run_job(clone, "workflow_dispatch", base=NOWHERE, **typed)
    assert status and said in printed
    assert summary.startswith("# Retraining: it did not finish")
    assert said in summary
    assert not list(clone.rglob("pwned"))


def test_a_run_by_hand_takes_its_inputs_and_promotes_only_if_told_to(clone: Path) -> None:
    status, printed, summary = run_job(
        clone, "workflow_dispatch", recipe="patient_views", overrides="finetune.epochs=2", promote="false"
    )
    assert status == 0, printed
    assert re.search(r"recipe +\| default +\| patient_views", summary)
    assert re.search(r"finetune.epochs +\| 1 +\| 2", summary)
    assert "PNEUMONIA_PROMOTE is false" in printed and "is the new champion" not in printed


def test_without_a_commit_to_compare_with_floors_decide_and_the_summary_says_so(clone: Path) -> None:
    status, printed, summary = run_job(clone, "pull_request", base=NOWHERE)
    assert status == 0, printed
    assert summary.startswith("# Retraining: accepted on its floors alone")
    assert "There is no commit" in summary


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_by_commit_and_name_their_version(path: Path) -> None:
    used = re.findall(r"uses: (.+)", path.read_text())
    assert used
    assert [line for line in used if not re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_no_shell_line_holds_an_expression_and_each_job_names_its_permissions(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {}
    for job in workflow["jobs"].values():
        assert "permissions" in job
        assert [step["run"] for step in job["steps"] if "${{" in step.get("run", "")] == []


def test_a_branch_compares_and_keeps_nothing_even_if_a_person_starts_it(clone: Path) -> None:
    status, printed, _ = run_job(clone, "workflow_dispatch", ref="refs/heads/blind")
    assert status == 0, printed
    assert "champion" not in printed and "register:" not in printed


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_secret_is_for_main_alone_and_belongs_to_an_environment(path: Path) -> None:
    main = "github.ref == 'refs/heads/main'"
    for job in yaml.safe_load(path.read_text())["jobs"].values():
        used = [(step, value) for step in job["steps"] for value in step.get("env", {}).values() if "secrets." in value]
        assert not used or job["environment"] == f"${{{{ {main} && 'retrain' || 'branches' }}}}"
        assert all(main in step.get("if", "") or f"{main} && secrets." in value for step, value in used)


def test_what_runs_before_the_outputs_are_stored_can_only_read_the_remote() -> None:
    storing = next(index for index, step in enumerate(JOB["steps"]) if step.get("id") == "push")
    keys = [
        v for step in JOB["steps"][:storing] for k, v in step.get("env", {}).items() if k.startswith(("AWS", "AZURE"))
    ]
    assert keys and all("secrets.READ_" in key for key in keys)


@pytest.mark.parametrize("answer, status, said", [
    ("https://github.com/o/r/pull/1", 0, "pull/1"),
    ("a pull request for branch \"retrain\" into branch \"main\" already exists", 0, "edited"),
    ("GraphQL: GitHub Actions is not permitted to create or approve pull requests", 1,
     "Allow GitHub Actions to create and approve pull requests"),
    ("HTTP 502: Bad gateway", 1, "HTTP 502"),
])  # fmt: skip
def test_a_pull_request_that_cannot_be_opened_ends_red_with_the_setting_to_change(
    answer: str, status: int, said: str, tmp_path: Path
) -> None:
    [step] = [step for step in JOBS["propose"]["steps"] if "run" in step]
    opening = step["run"][step["run"].index("summary=") :]
    exits = int(not answer.startswith("https"))
    gh = f"#!/bin/sh\ncase $2 in edit) echo edited;; *) echo '{answer}'; exit {exits};; esac\n"
    (tmp_path / "gh").write_text(gh)
    (tmp_path / "gh").chmod(0o755)
    done = subprocess.run(
        ["bash", "-e", "-c", opening], env={"PATH": f"{tmp_path}:/usr/bin:/bin", "BRANCH": "retrain"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, said in done.stdout) == (status, True), done.stdout
