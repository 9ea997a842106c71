"""What one clone pushes to a remote, another pulls instead of computing it."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer
from projects import ROOT, run, set_params
from swaps import DIGESTS, MODEL, POINT, find_object, swap_model

KEYS = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the address of an S3 server on this machine that has the bucket images."""
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


def test_a_second_clone_pulls_everything_and_runs_only_register(s3: str, finished: Path, tmp_path: Path) -> None:
    run("dvc", "remote", "add", "-d", "storage", "s3://images/pneumonia", cwd=finished)
    run("dvc", "remote", "modify", "storage", "endpointurl", s3, cwd=finished)
    commit(finished)
    run("make", "push", cwd=finished)
    shutil.rmtree(finished / ".dvc" / "cache")
    second = clone(finished, tmp_path / "second")
    run("dvc", "pull", cwd=second)
    assert repro(second) == ["register"]
    assert run("git", "status", "--short", cwd=second).stdout == ""


@pytest.mark.parametrize("verify", ["false", "true"])
def test_a_model_replaced_in_the_remote_with_all_that_goes_with_it_is_refused(
    verify: str, s3: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("dvc", "remote", "add", "-d", "storage", "s3://images/pneumonia", cwd=finished)
    run("dvc", "remote", "modify", "storage", "endpointurl", s3, cwd=finished)
    run("dvc", "remote", "modify", "storage", "verify", verify, cwd=finished)
    commit(finished)
    run("make", "push", cwd=finished)
    monkeypatch.chdir(finished)
    stored = {path: find_object(path) for path in (MODEL, POINT, DIGESTS)}
    swap_model()
    for path, name in stored.items():
        boto3.client("s3", endpoint_url=s3).put_object(Bucket="images", Key=f"pneumonia/{name}", Body=path.read_bytes())
    second = clone(finished, tmp_path / "second")
    pulled = run("dvc", "pull", cwd=second, check=False)
    if verify == "true":
        assert pulled.returncode and not (second / "models/finetuned.keras").exists()
    else:
        for command in ("dvc repro", "python -m pneumonia retrain --base nowhere"):
            done = run(*command.split(), cwd=second, check=False)
            assert done.returncode and f"{MODEL} is not what the pipeline made" in done.stdout + done.stderr
    assert not (second / "mlruns" / "mlflow.db").exists()


def test_a_model_replaced_in_the_cache_is_not_registered(finished: Path) -> None:
    cached = finished / ".dvc/cache" / find_object(finished / MODEL)
    cached.chmod(0o644)
    cached.write_bytes((finished / "models/initial.keras").read_bytes())
    (finished / "models/finetuned.keras").unlink()
    run("dvc", "checkout", cwd=finished, check=False)
    done = run("python", "-m", "pneumonia", "predict", "data/raw", "--model", "models/finetuned.keras", cwd=finished,
               check=False)  # fmt: skip
    assert done.returncode and "finetuned.keras" in done.stderr


def test_images_tracked_by_a_pointer_reach_a_second_clone_through_a_folder(project: Path, tmp_path: Path) -> None:
    run("dvc", "repro", "fetch", cwd=project)
    shutil.copytree(project / "data" / "raw", project / "data" / "external" / "images")
    set_params(project, {"data": {"source": "folder", "path": "data/external/images"}})
    run("dvc", "remote", "add", "-d", "storage", str(tmp_path / "remote"), cwd=project)
    run("dvc", "add", "data/external/images", cwd=project)
    run("dvc", "repro", "split", cwd=project)
    commit(project)
    run("make", "push", cwd=project)
    shutil.rmtree(project / ".dvc" / "cache")
    second = clone(project, tmp_path / "second")
    run("make", "pull", cwd=second)
    assert repro(second, "split") == []
    assert len(list((second / "data" / "external" / "images").glob("*/*/*.jpeg"))) == 60


@pytest.mark.parametrize("target", ["pull", "push"])
def test_without_a_remote_pull_and_push_say_so_and_do_nothing(target: str, project: Path) -> None:
    done = run("make", target, cwd=project)
    assert "No default remote set" in done.stdout + done.stderr


def test_every_kind_of_remote_in_the_docs_can_be_installed() -> None:
    locked = (ROOT / "requirements-remotes.txt").read_text()
    assert all(f"\ndvc-{kind}==" in locked for kind in ("s3", "gs", "azure", "ssh"))
