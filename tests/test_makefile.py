"""The Makefile hands the name of a recording on as it is."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[1] / "Makefile"


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
@pytest.mark.parametrize("name", ["my talk.mp3", "it's (1) & more; $$x.wav", "plain.wav"])
def test_names_with_spaces_and_quotes(tmp_path, name):
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / ".venv" / "core").touch()
    command = ["make", "--no-print-directory", "-f", MAKEFILE, "transcribe", f"AUDIO={name}"]
    # `make test` runs this too, and would tell the inner make so.
    outer = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=outer)
    assert done.stdout.splitlines() == ["-m", "asr.transcribe", name.replace("$$", "$")], done.stderr
