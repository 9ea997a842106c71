"""Run a tracking server: MLflow on a PostgreSQL of its own, for this machine only. Ctrl+C stops both."""

import argparse
import os
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from pneumonia.core.errors import InputError

# Jobs are there to judge language models, in more processes.
SETTINGS = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def find_postgres() -> Path:
    """Return the folder of PostgreSQL's programs: that on PATH or, as on Debian, the newest in /usr/lib/postgresql.

    Raises:
        InputError: it or its driver is not installed.
    """
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), key=lambda path: int(path.parts[4]))
    found = [Path(path) for path in [shutil.which("pg_ctl")] if path] or installed[-1:]
    if not found or not find_spec("psycopg2"):
        raise InputError(
            f"{'The driver of PostgreSQL' if found else 'PostgreSQL'} is not installed.",
            expected="pg_ctl on PATH or in /usr/lib/postgresql/*/bin, and Python's module psycopg2",
            remedy="make server, which installs it" if found else "apt-get install postgresql (Debian, Ubuntu)",
        )
    return found[0].resolve().parent


def serve(folder: Path, port: int) -> None:
    """Serve what lies in `folder`, made when there is nothing, at http://127.0.0.1:`port` until a signal ends it.

    Raises:
        InputError: PostgreSQL is missing or does not start, or MLflow ends by itself.
    """
    programs, folder = find_postgres(), folder.resolve()
    data, log = folder / "postgres", folder / "postgres.log"
    # PostgreSQL refuses to run as root; Debian's package makes a user for it.
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []

    def run(program: str, *arguments: str) -> None:
        command = [*user, str(programs / program), "-D", str(data), *arguments]
        with log.open("a") as said:  # no pipe: the server that pg_ctl leaves behind would keep it open
            if subprocess.run(command, cwd=data, stdout=said, stderr=said, check=False).returncode:
                last = "\n".join(log.read_text().splitlines()[-6:])
                raise InputError(
                    f"PostgreSQL's {program} failed:\n{last}",
                    expected=f"{data} that the {'user postgres' if user else 'user'} may enter, and that no other uses",
                    remedy=f"{' '.join(user)} {programs}/pg_ctl -D '{data}' stop, or --folder with another one".strip(),
                )

    data.mkdir(parents=True, exist_ok=True)
    if user:
        shutil.chown(data, "postgres")
    data.chmod(0o700)  # who may enter may connect: PostgreSQL listens at a socket in there and nowhere else
    if not (data / "PG_VERSION").exists():
        run("initdb", "--username=mlflow", "--encoding=UTF8", "--locale=C", "--auth=trust")
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as below nohup
            signal.signal(number, signal.default_int_handler)
    run("pg_ctl", "start", "--options=-k . -p 5432 -c listen_addresses=")
    command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
    command += [f"--backend-store-uri=postgresql+psycopg2://mlflow@/postgres?host={quote(str(data))}&port=5432"]
    command += ["--serve-artifacts", f"--artifacts-destination={folder / 'artifacts'}"]
    command += [f"--allowed-hosts=127.0.0.1:{port},localhost:{port}"]  # else every private address
    server = subprocess.Popen(command, env=os.environ | SETTINGS)
    try:
        print(f"export MLFLOW_TRACKING_URI=http://127.0.0.1:{port} leads runs here; stop with Ctrl+C.", flush=True)
        raise InputError(
            f"MLflow ended with status {server.wait()} and says why above.",
            expected=f"that nothing else listens at port {port}",
            remedy="make server PORT=5001, and the same port in MLFLOW_TRACKING_URI",
        )
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        server.terminate()
        server.wait()
        run("pg_ctl", "stop", "--mode=fast")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m pneumonia.server", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("mlruns/server"), help="of database and artifacts")
    parser.add_argument("--port", type=int, default=5000)
    try:
        serve(**vars(parser.parse_args()))
    except KeyboardInterrupt:
        print("Stopped.")
    except InputError as error:
        raise SystemExit(str(error)) from None
