"""`python -m recipes.train` as a process: mistakes are one line and make no run."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "experiment=NAME is needed: choose one of "),
        (["experiment=nope"], "experiment=nope is unknown: choose one of "),
        (["experiment=debug", "name="], "name= is empty"),
        (["experiment=debug", "trainer.steps=0"], "trainer.steps is 0"),
        (["experiment=debug", "trainer.steps=abc"], "trainer.steps is 'abc'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistakes_are_one_line(tmp_path, arguments, message):
    command = [sys.executable, "-m", "recipes.train", *arguments, f"run_folder={tmp_path / 'run'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    lines = done.stderr.splitlines()
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert message in lines[-1] and ("choose one of" not in message or "ctc_compact" in lines[-1])
    assert len(lines) == 1 and not list(tmp_path.rglob("*.pt"))
