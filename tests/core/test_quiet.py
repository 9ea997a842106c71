"""Libraries keep quiet: TensorFlow's start-up lines are not shown, all else is."""

import getpass
import os
import runpy
import subprocess
import sys

import pytest
from projects import ROOT, clean_environment

from pneumonia.core.quiet import without_noise

NOISE = "I0000 00:00:1.5 1 port.cc:153] oneDNN custom operations are on. You may see slightly different results"
FIRST = "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR"


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=clean_environment(), capture_output=True, text=True
    )


@pytest.mark.parametrize("library", ["tensorflow", "keras"])
def test_tensorflow_starts_without_a_word_whoever_imports_it(library: str) -> None:
    done = run_python(f"import pneumonia, {library}, tensorflow as tf; print(tf.constant(1).numpy() + 1)")
    assert (done.stdout, done.stderr) == ("2\n", "")


@pytest.mark.parametrize("stream", [1, 2])
def test_what_is_no_noise_is_passed_on_in_order(stream: int, capfd: pytest.CaptureFixture[str]) -> None:
    with without_noise():
        os.write(stream, f"first\n{FIRST}\n{NOISE}\nE0000 a real error\nlast".encode())
    assert capfd.readouterr()[stream - 1] == "first\nE0000 a real error\nlast"


def test_standard_error_is_there_again_where_standard_output_has_no_space(capfd: pytest.CaptureFixture[str]) -> None:
    kept, full = os.dup(1), os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, 1)
    with pytest.raises(OSError, match="No space left"), without_noise():
        os.write(1, b"lost")
    os.write(2, b"seen")
    os.dup2(kept, 1)
    for descriptor in (kept, full):
        os.close(descriptor)
    assert capfd.readouterr() == ("", "seen")


def test_what_was_written_before_an_error_is_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ImportError), without_noise():
        os.write(2, f"{NOISE}\nlibcudart is missing\n".encode())
        raise ImportError
    assert capfd.readouterr().err == "libcudart is missing\n"


def test_nothing_phones_home_unless_the_user_says_so() -> None:
    code = "import os, pneumonia; print(os.environ['DO_NOT_TRACK'], os.environ['MLFLOW_DISABLE_TELEMETRY'])"
    assert run_python(code).stdout == "1 true\n"
    assert run_python("import os; os.environ['DO_NOT_TRACK'] = '0'; " + code).stdout == "0 true\n"


def test_a_user_who_is_a_mere_number_has_a_name_for_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    monkeypatch.setattr(os, "getuid", lambda: 2_000_000_000)  # only root could be that user for once
    for name in ("USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LOGNAME", "")
    runpy.run_path(str(ROOT / "pneumonia/core/quiet.py"))
    assert getpass.getuser() == "2000000000"
