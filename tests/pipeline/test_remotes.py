"""What one clone stores in a remote, another gets from there and need not compute."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer
from projects import ROOT, run, set_params

KEYS = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the address of a server on this machine that speaks S3 and has the bucket images."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    boto3.client("s3", endpoint_url=address).create_bucket(Bucket="images")
    yield address
    server.stop()


def commit(project: Path) -> None:
    run("git", "add", "-A", cwd=project)
    run("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "the pipeline ran", cwd=project)


def clone(project: Path, target: Path) -> Path:
    run("git", "clone", "-q", str(project), str(target), cwd=project)
    return target


def repro(project: Path, *targets: str) -> list[str]:
    return re.findall(r"Running stage '(\w+)'", run("dvc", "repro", *targets, cwd=project).stdout)


@pytest.mark.parametrize("kind", ["s3", "folder"])
def test_a_second_clone_pulls_everything_and_runs_no_stage_but_register(
    kind: str, s3: str, finished: Path, tmp_path: Path
) -> None:
    url = "s3://images/pneumonia" if kind == "s3" else str(tmp_path / "remote")
    run("dvc", "remote", "add", "-d", "storage", url, cwd=finished)
    if kind == "s3":
        run("dvc", "remote", "modify", "storage", "endpointurl", s3, cwd=finished)
    commit(finished)
    run("make", "push", cwd=finished)
    shutil.rmtree(finished / ".dvc" / "cache")
    second = clone(finished, tmp_path / "second")
    run("dvc", "pull", cwd=second)
    assert repro(second) == ["register"]
    assert run("git", "status", "--short", cwd=second).stdout == ""


def test_images_tracked_by_a_pointer_reach_a_second_clone(project: Path, tmp_path: Path) -> None:
    run("dvc", "repro", "fetch", cwd=project)
    shutil.copytree(project / "data" / "raw", project / "data" / "external" / "images")
    set_params(project, {"data": {"source": "folder", "path": "data/external/images"}})
    run("dvc", "remote", "add", "-d", "storage", str(tmp_path / "remote"), cwd=project)
    run("dvc", "add", "data/external/images", cwd=project)
    run("dvc", "repro", "split", cwd=project)
    commit(project)
    run("make", "push", cwd=project)
    second = clone(project, tmp_path / "second")
    run("make", "pull", cwd=second)
    assert repro(second, "split") == []
    assert len(list((second / "data" / "external" / "images").glob("*/*/*.jpeg"))) == 60


def test_without_a_remote_pull_and_push_say_so_and_do_nothing(finished: Path) -> None:
    for target in ("pull", "push"):
        assert "No default remote set" in "".join(
            vars(run("make", target, cwd=finished))[s] for s in ("stdout", "stderr")
        )


def test_every_kind_of_remote_in_the_docs_can_be_installed() -> None:
    locked = (ROOT / "requirements-remotes.txt").read_text()
    assert all(f"\ndvc-{kind}==" in locked for kind in ("s3", "gs", "azure", "ssh"))
