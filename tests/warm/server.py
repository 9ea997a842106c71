"""Fork processes that have imported TensorFlow, MLflow and Great Expectations: seconds that tests would spend again."""

import atexit
import gc
import json
import os
import runpy
import signal
import socket
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path

import psutil

LARGE = ("tensorflow", "keras", "mlflow.tensorflow", "mlflow.store.tracking.sqlalchemy_store", "great_expectations",
         "pandas", "scipy.stats", "sklearn.metrics", "sklearn.model_selection", "matplotlib.pyplot", "pydicom",
         "pydantic")  # fmt: skip
parents = psutil.Process.parents


def serve(address: Path, owner: int) -> None:
    """Listen at `address` until the process `owner` is gone."""
    runpy.run_path(str(Path(__file__).parents[2] / "pneumonia" / "core" / "quiet.py"))
    for name in LARGE:
        __import__(name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the attendants
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        listener.listen()
        if os.fork():
            os._exit(0)  # who started it knows by this that it listens
        listener.settimeout(1)
        while Path(f"/proc/{owner}").exists():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            if os.fork() == 0:
                listener.close()
                return attend(connection)
            connection.close()
    address.unlink()


def attend(connection: socket.socket) -> None:
    """Fork the process that is asked for, and tell its exit status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    connection.settimeout(None)
    connection.sendall(str(os.getsid(0)).encode())
    text, descriptors, _, _ = socket.recv_fds(connection, 1 << 16, 3)
    while more := connection.recv(1 << 16):
        text += more
    if not text:
        os._exit(0)  # it became the real one
    if process := os.fork():
        for descriptor in descriptors:
            os.close(descriptor)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        with suppress(BrokenPipeError):  # who waited was killed
            connection.sendall(str(status if status >= 0 else 128 - status).encode())
        os._exit(0)
    connection.close()
    become(descriptors, **json.loads(text))


def become(
    descriptors: list[int], arguments: list[str], folder: str, group: int, client: int, environment: dict[str, str]
) -> None:
    """Run a module as `python -m` does."""
    os.setpgid(0, group)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    # Its own parent is the attendant; a stage has to end with the DVC above the process that waits for it.
    psutil.Process.parents = lambda self: parents(psutil.Process(client))
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  # the old one takes this for the file that it was
    sys.path[0], sys.argv = folder, arguments
    status = 0
    try:
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else int(left.code is not None)
        if isinstance(left.code, str):
            print(left.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(status)  # to take all that was imported apart takes two seconds


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
