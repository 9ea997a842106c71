"""Let one promotion or registration run at a time, from whatever machine: a lock in the registry itself."""

import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import mlflow
from mlflow.entities.model_registry import RegisteredModel
from mlflow.exceptions import MlflowException

from pneumonia.core.errors import InputError
from pneumonia.core.files import sha256_bytes
from pneumonia.core.stage import is_running
from pneumonia.registry.audit import stamp
from pneumonia.registry.versions import MODEL_NAME, find_model
from pneumonia.tracking.connection import connect

LOCK = f"{MODEL_NAME}.promotion"  # a registered model that exists while somebody promotes or registers
WAIT = 5.0  # seconds to wait for another, which takes a fraction of one
STALE = 300.0  # seconds after which a holder elsewhere counts as killed; the clocks of two machines differ by less
JUDGE_AGAIN = "judge it against the present champion: dvc repro"


class PromotionRefusedError(InputError):
    """Another promotion came first, or is still under way."""


@contextmanager
def hold_lock(by: str) -> Iterator[Callable[[], None]]:
    """Hold the lock, and yield a function that raises PromotionRefusedError once it is lost.

    MLflow has no compare-and-swap, but of many clients that create a registered model of one name, or rename one, a
    single one succeeds: the name is a primary key of the store's database. Both work over HTTP as well. The holder
    deletes what broken locks left behind, then the lock itself.

    Args:
        by: who, shown to those who wait.

    Raises:
        PromotionRefusedError: another one did not end within WAIT seconds.
    """
    connect()
    process = f"process {os.getpid()} of {_find_machine()}"
    ticket = f"{by} on {socket.gethostname()} since {stamp()}, {process}, {uuid4().hex[:8]}"
    deadline = time.monotonic() + WAIT
    try:
        while not _take(ticket):
            if time.monotonic() > deadline:
                held = find_model(LOCK)
                who = held.description if held else "it has just ended"
                raise PromotionRefusedError(
                    f"Another promotion or registration is under way: {who}.",
                    expected=f"its end within {WAIT:.0f} seconds",
                    remedy=f"run the command again; after {STALE / 60:.0f} minutes the other one counts as killed",
                )
            time.sleep(0.05)
        yield lambda: _ensure_held(ticket)
    finally:
        _release(ticket)


def sweep_locks(by: str) -> None:
    """Delete what killed promotions and registrations left, for a run that finds nothing to promote or register."""
    if any(map(_is_stale, mlflow.MlflowClient().search_registered_models(f"name LIKE '{LOCK}%'"))):
        with suppress(PromotionRefusedError), hold_lock(by):
            pass


def _take(ticket: str) -> bool:
    try:
        mlflow.MlflowClient().create_registered_model(LOCK, description=ticket)
        return True
    except MlflowException as error:
        # The second is MLflow's error when the lock disappears while it reads who holds it.
        if error.error_code not in ("RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST"):
            raise
    held = find_model(LOCK)
    if held and _is_stale(held):
        _break(held)
    # It is our own if the answer to a first attempt was lost and MLflow tried again.
    return held is not None and held.description == ticket


def _find_machine() -> str:
    """Return what tells this machine since its start, and this container, from others; empty if that is unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        return sha256_bytes(f"{boot}{os.readlink('/proc/self/ns/pid')}".encode())[:8]
    except OSError:
        return ""


def _is_stale(held: RegisteredModel) -> bool:
    """Tell whether the holder ran on this machine and has ended; of others only time can tell."""
    if time.time() - held.creation_timestamp / 1000 > STALE:  # pyright: ignore[reportOptionalOperand]
        return True
    found = re.search(r", process (\d+) of (\w+), \w+$", held.description or "")
    return bool(found) and found[2] == _find_machine() and not is_running(int(found[1]))


def _break(stale: RegisteredModel) -> None:
    """Move the lock of a killed process out of the way.

    Several clients may find the same stale lock, so it is renamed, not deleted: of them one succeeds, and the new name
    stays taken until the next holder releases its lock. A client that slept longer than that gets hold of a fresh lock
    and puts it back; meanwhile its holder may find it lost, and stops.
    """
    client, broken = mlflow.MlflowClient(), f"{LOCK}.broken-{stale.creation_timestamp}"
    with suppress(MlflowException):  # another client was faster
        client.rename_registered_model(LOCK, broken)
        if (renamed := find_model(broken)) and renamed.description == stale.description:
            print(f"Broke the lock of a process that was killed: {stale.description}.")
        else:
            client.rename_registered_model(broken, LOCK)


def _is_held(ticket: str) -> bool:
    held = find_model(LOCK)
    return held is not None and held.description == ticket


def _ensure_held(ticket: str) -> None:
    # A process that slept for long was taken for killed.
    if not _is_held(ticket):
        raise PromotionRefusedError(
            "This took too long, its lock was broken.",
            expected=f"at most {STALE:.0f} seconds",
            remedy=JUDGE_AGAIN,
        )


def _release(ticket: str) -> None:
    client = mlflow.MlflowClient()
    if _is_held(ticket):
        for broken in client.search_registered_models(f"name LIKE '{LOCK}.%'"):
            client.delete_registered_model(broken.name)
        client.delete_registered_model(LOCK)
