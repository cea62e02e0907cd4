import subprocess
import sys

import pytest

from asr.dspeech import COMMANDS


def dspeech(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "asr.dspeech", *arguments], capture_output=True, text=True)


def test_without_a_command_all_are_listed():
    result = dspeech()
    assert result.returncode == 0
    assert all(name in result.stdout for name in COMMANDS)


def test_a_command_is_the_program_under_its_own_name():
    result = dspeech("score", "--help")
    assert result.returncode == 0 and result.stdout.startswith("usage: dspeech score")


def test_training_lists_its_experiments():
    result = dspeech("train", "--help")
    assert result.returncode == 0 and result.stdout.startswith("usage: dspeech train experiment=NAME")
    assert "hybrid_tiny" in result.stdout


def test_an_unknown_command_is_named():
    result = dspeech("transcrib")
    assert result.returncode == 2 and "transcrib" in result.stderr


def test_version():
    assert dspeech("--version").stdout.startswith("dspeech ")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_program_is_there(name):
    from importlib.util import find_spec

    assert find_spec(COMMANDS[name][0])
