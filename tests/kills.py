"""Kill the pipeline at random moments and see that `make repro` always ends it the same: kills.py FOLDER.

Too long for the suite: 200 random kills and 30 in the window in which DVC writes dvc.lock take about an hour on a
core. A chain is a tiny project in which `make repro` is killed until one of its runs comes to its end: each is killed
after a time that is uniform between nothing and half of a whole run. Then dvc.lock has to hold the bytes of a run
that nobody killed, MLflow one version and two finished runs, and no process may be left. What deviates is kept.
"""

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from itertools import count
from pathlib import Path

import psutil
from mlflow import MlflowClient
from projects import clean_environment, copy_project, link_environment, start_warm

# Share of each kind. `python -m` starts warm, but in a session of its own; "dvc alone" is tried both ways.
KINDS = {"everything": 0.33, "stage alone": 0.33, "dvc alone": 0.28, "dvc alone, started cold": 0.06}
LONGEST = 900  # seconds
VERSION = "pneumonia-classifier 1 True Synthetic radiographs: no clinical meaning."

# Threads of several processes would wait for each other on a core or two.
os.environ |= {"TF_NUM_INTRAOP_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class Bench:
    """A folder with a project in which nothing has run, and with the dvc.lock of one that nobody killed."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random, self.table = folder, random.Random(seed), Counter[tuple[str, str]]()
        link_environment(copy_project(folder / "template"))
        self.seconds: dict[bool, float] = {}
        locks = set[bytes]()
        start_warm()
        for cold in (False, True):
            project, started = self.copy("cold" if cold else "warm"), time.monotonic()
            assert start(project, cold).wait(LONGEST) == 0
            self.seconds[cold] = time.monotonic() - started
            locks.add((project / "dvc.lock").read_bytes())
            print(f"A {project.name} run that nobody kills: {self.seconds[cold]:.0f} s", flush=True)
        (self.lock,) = locks

    def copy(self, name: str, *, finished: bool = False) -> Path:
        """Return a project in which nothing has run; or all has, but dvc.lock is lost."""
        project = shutil.copytree(self.folder / ("warm" if finished else "template"), self.folder / name, symlinks=True)
        (project / "dvc.lock").unlink(missing_ok=True)
        return project

    def kill_randomly(self, kind: str, kills: int, number: int) -> int:
        """Kill one project's runs until one ends by itself, `kills` times at most; return how many were."""
        project, cold, began = self.copy(f"{kind}-{number}".replace(" ", "-")), "cold" in kind, time.monotonic()
        processes, where = list[subprocess.Popen[bytes]](), list[str]()
        while True:
            processes.append(start(project, cold))
            wait = self.random.uniform(0, self.seconds[cold] / 2) if len(where) < kills else LONGEST
            if not (killed := kill(kind, processes[-1], wait)):
                break
            where.append(killed)
            self.table[kind, killed] += 1
            if "dvc" not in kind:  # after which the next one starts while the stage may have half a second to live
                processes[-1].wait(LONGEST)
        self.conclude(project, kind, where, processes, began)
        return len(where)

    def kill_in_window(self, file: str, number: int, of: int) -> None:
        """Kill DVC right before one of its writes into a file, which it has opened and so emptied before."""
        traced, began, name = self.folder / f"traced-{Path(file).name}", time.monotonic(), Path(file).name
        if not traced.exists():
            trace(self.copy(traced.name, finished=True), file, 0)
        total = (traced / "writes").read_text().count("write(")
        write = 1 + number * total // of
        project = self.copy(f"{name}-{number}", finished=number % 5 > 0)
        if number % 2:  # there is a last commit to restore, of another run
            (project / "dvc.lock").write_bytes(re.sub(rb"md5: \w", b"md5: 0", self.lock))
            for command in ("add -f dvc.lock", "commit -qm lock"):
                subprocess.run(["git", *command.split()], cwd=project, check=True)
        assert trace(project, file, write) == -signal.SIGKILL
        left = f"write {write} of {total}, {(project / file).stat().st_size} bytes left"
        self.table[file, "with a commit" if number % 2 else "without"] += 1
        last = start(project, cold=False)
        last.wait(LONGEST)
        self.conclude(project, file, [left], [last], began)

    def conclude(
        self, project: Path, kind: str, where: list[str], processes: list[subprocess.Popen[bytes]], began: float
    ) -> None:
        """Say how a chain ended; keep the project if it deviates."""
        wrong = self.compare(project, processes)
        seconds = time.monotonic() - began
        self.table[kind, "chains"] += 1
        self.table[kind, "kills"] += len(where)
        self.table[kind, "deviations"] += bool(wrong)
        self.table[kind, "seconds"] += round(seconds)
        print(f"{project.name}: {', '.join(where)}; {seconds:.0f} s: {'; '.join(wrong) or 'the same'}", flush=True)
        if not wrong:
            shutil.rmtree(project)

    def compare(self, project: Path, processes: list[subprocess.Popen[bytes]]) -> list[str]:
        """Return in what a project differs from one that nobody killed."""
        wrong = [f"exit status {status}"] if (status := processes[-1].wait()) else []
        left = [command for group in processes for command in list_group(group.pid).values()]
        wrong += [f"processes left: {left}"] if left else []
        if not (project / "dvc.lock").exists() or (project / "dvc.lock").read_bytes() != self.lock:
            wrong.append("dvc.lock differs")
        client = MlflowClient(f"sqlite:///{project / 'mlruns' / 'mlflow.db'}")
        models = [model.name for model in client.search_registered_models()]
        versions = [
            f"{version.name} {version.version} {'checks' in version.tags} {version.description}"
            for version in client.search_model_versions()
        ]
        runs = sorted(
            f"{run.data.tags['phase']} {run.info.status}"
            for experiment in client.search_experiments()
            for run in client.search_runs([experiment.experiment_id])
        )
        wrong += [f"{models}, {versions}"] if (models, versions) != (["pneumonia-classifier"], [VERSION]) else []
        wrong += [str(runs)] if runs != ["finetune FINISHED", "train FINISHED"] else []
        partial = [str(path.relative_to(project)) for path in project.rglob(".partial-*")]
        self.table["files left", "of killed writers"] += len(partial)
        return wrong


def start(project: Path, cold: bool) -> subprocess.Popen[bytes]:
    """Start `make repro` in a process group, or session, of its own; its output goes to the project's `said`."""
    environment = {name: text for name, text in clean_environment().items() if not name.startswith("MAKE")}
    with (project / "said").open("ab") as said:
        return subprocess.Popen(
            ["make", "repro"], cwd=project, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said,
            start_new_session=cold, process_group=None if cold else 0,
        )  # fmt: skip


def trace(project: Path, file: str, write: int) -> int:
    """Run `dvc repro`, killed before it writes into a file for the given time if that is not 0; return its status."""
    # Of DVC itself: strace follows no children unless told.
    traced = ["-o", "writes", "-e", "trace=write", "-P", str(project / file)]
    fault = ["-e", f"inject=write:signal=KILL:when={write}"] if write else []
    with (project / "said").open("ab") as said:
        return subprocess.run(
            ["strace", *traced, *fault, "dvc", "repro"], cwd=project, env=clean_environment(), stdin=subprocess.DEVNULL,
            stdout=said, stderr=said, process_group=0,
        ).returncode  # fmt: skip


def list_group(group: int) -> dict[psutil.Process, str]:
    """Return the living processes of a group, oldest first, and their command lines."""
    members = dict[psutil.Process, str]()
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getpgid(process.pid) == group:
                members[process] = " ".join(process.cmdline())
    return dict(sorted(members.items(), key=lambda member: member[0].create_time()))


def kill(kind: str, process: subprocess.Popen[bytes], wait: float) -> str:
    """Kill after a wait; return what ran then, nothing if the command came to its end before."""
    deadline = time.monotonic() + wait
    while process.poll() is None:
        if time.monotonic() < deadline:
            time.sleep(min(0.05, max(0.0, deadline - time.monotonic())))
            continue
        commands = list_group(process.pid)
        dvc = [member for member, command in commands.items() if re.search(r"/dvc repro$", command)]
        stages = [member for member, command in commands.items() if dvc and "warm/server.py" in command]
        found = [process] if kind == "everything" else stages if kind == "stage alone" else dvc
        if found:
            (os.killpg if kind == "everything" else os.kill)(found[0].pid, signal.SIGKILL)
            running = re.search(r"-m stages\.(\w+)", " ".join(commands.values()))
            return running[1] if running else "between stages" if dvc else "before or after DVC"
    return ""


def main() -> None:
    """Kill, and print how often, where, and what deviated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="new folder to work in")
    parser.add_argument("--kills", type=int, default=200, help="at random moments")
    parser.add_argument("--window", type=int, default=30, help="while dvc.lock is written, and a fifth as many while "
                        "DVC's list of files in use is; needs strace")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    bench = Bench(options.folder.absolute(), options.seed)
    try:
        for file, times in (("dvc.lock", options.window), (".dvc/tmp/rwlock", options.window // 5)):
            for number in range(times):
                bench.kill_in_window(file, number, times)
        wanted = {kind: round(options.kills * share) for kind, share in KINDS.items()}
        for number in count():
            kind = max(wanted, key=lambda kind: wanted[kind])
            if not wanted[kind]:
                break
            wanted[kind] -= bench.kill_randomly(kind, wanted[kind], number)
    finally:
        print(*(f"{kind}, {what}: {number}" for (kind, what), number in sorted(bench.table.items())), sep="\n")
    sys.exit(any(what == "deviations" and number for (_, what), number in bench.table.items()))


if __name__ == "__main__":
    main()
