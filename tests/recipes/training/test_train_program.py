"""`python -m recipes.train` as a process: mistakes are one line and make no run."""

import os
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


def test_a_missing_package_is_one_line(tmp_path):
    said = "this needs the package none: pip install none"
    (tmp_path / "lacking.py").write_text(f"def task(**settings):\n    raise ImportError({said!r})\n")
    arguments = ["experiment=debug", "task._target_=lacking.task", f"run_folder={tmp_path / 'run'}"]
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "recipes.train", *arguments],
        capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.splitlines() == [f"recipes.train: {said}"]
