"""The shell side of programs, as processes: signals, closed and full streams, names that are no text."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

PRELUDE = """
import sys, time
from pathlib import Path
from asr.audio.io import atomic_path
from asr.console.program import UsageError, complain, emit, emit_bytes, program

@program
def main():
"""


def start(body: str, **options) -> subprocess.Popen:
    """A program whose `main` has this body."""
    code = PRELUDE + textwrap.indent(textwrap.dedent(body), "    ") + "\nsys.exit(main())"
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen([sys.executable, "-c", code], **pipes)


def finished(body: str, **options) -> tuple[int, bytes, bytes]:
    process = start(body, **options)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def shell(body: str, redirection: str) -> tuple[int, str]:
    """Exit status and standard error under a shell's redirection."""
    code = PRELUDE + textwrap.indent(textwrap.dedent(body), "    ") + "\nsys.exit(main())"
    command = f'"$PYTHON" -c "$CODE" {redirection}'
    environment = os.environ | {"PYTHON": sys.executable, "CODE": code}
    done = subprocess.run(["bash", "-c", command], env=environment, stderr=subprocess.PIPE, text=True, timeout=120)
    return done.returncode, done.stderr


def test_status_and_result():
    assert finished("emit('text\\n'); return 0") == (0, b"text\n", b"")
    assert finished("complain('a.wav: no such file'); return 1") == (1, b"", b"a.wav: no such file\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_output_is_one_line():
    for result in ("emit('text')", "emit_bytes(b'text')", "print('text')"):
        status, messages = shell(f"{result}; return 0", "> /dev/full")
        assert status == 1 and len(messages.splitlines()) == 1, result
        assert messages.endswith("No space left on device\n") and ("print" in result or "standard output" in messages)


def test_help_into_a_full_disk_is_one_line():
    body = "import argparse\nargparse.ArgumentParser().parse_args(['--help'])"
    status, messages = shell(body, "> /dev/full")
    assert status in (0, 1) and len(messages.splitlines()) <= 1 and "Exception" not in messages


def test_closed_streams():
    assert shell("emit('text'); return 0", ">&-") == (1, "standard output: is closed\n")
    assert shell("print(len(sys.stdin.buffer.read())); return 0", "<&-") == (0, "")
    assert shell("complain('lost'); return 1", "2>&-") == (1, "")


def test_a_closed_stream_is_not_the_next_file(tmp_path):
    """What a library prints must not land in a file that was opened in the place of standard output."""
    body = f"""
        with open({str(tmp_path / "a")!r}, "w") as file:
            assert file.fileno() > 2
        return 0
    """
    assert shell(body, "<&- >&-")[0] == 0


def test_a_reader_that_went_away_is_one_line():
    body = "time.sleep(1)\nfor _ in range(1000): emit('x' * 1000)\nreturn 0"
    status, messages = shell(body, "| true; exit ${PIPESTATUS[0]}")
    assert status == 1 and messages == "standard output: closed by its reader, the rest is not written\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_signals_leave_no_temporary_file(tmp_path, number, status):
    body = f"""
        with atomic_path(Path({str(tmp_path)!r}) / "out.txt") as temporary:
            temporary.write_text("half")
            emit("ready")
            time.sleep(60)
        return 0
    """
    # A shell's background jobs ignore SIGINT, those of nohup SIGHUP, and so would the child.
    process = start(body, preexec_fn=lambda: signal.signal(number, signal.SIG_DFL))
    assert process.stdout.read(5) == b"ready"
    started = time.monotonic()
    process.send_signal(number)
    _, messages = process.communicate(timeout=50)
    assert process.returncode == status and time.monotonic() - started < 50
    assert b"Traceback" not in messages and list(tmp_path.iterdir()) == []


def test_names_that_are_no_text_are_printed_as_they_are():
    environment = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    body = "emit('caf\\udce9.wav\\n'); complain('caf\\udce9.wav: no such file'); return 1"
    assert finished(body, env=environment) == (1, b"caf\xe9.wav\n", b"caf\xe9.wav: no such file\n")


def test_what_an_encoding_lacks_is_escaped():
    environment = os.environ | {"PYTHONIOENCODING": "ascii:strict"}
    assert finished("emit('caf\\xe9\\n'); return 0", env=environment)[:2] == (0, b"caf\\xe9\n")


def test_a_message_is_one_line():
    assert finished("complain('a\\tb\\nc.wav: no such file'); return 1")[2] == b"a\\tb\\nc.wav: no such file\n"
