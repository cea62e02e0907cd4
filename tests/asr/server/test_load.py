"""The load benchmark on the toy server: many clients, each clip's own text, and wrong answers are seen."""

import os

import numpy as np
import pytest
import soundfile

from recipes.benchmarks.server import main
from tests.asr.server.conftest import KEY


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    """A minute of tones of which every clip has its own."""
    path, time = tmp_path_factory.mktemp("load") / "tones.wav", np.arange(8_000) / 16_000
    pitches = np.random.default_rng(0).integers(2, 9, 60) * 100
    pause = np.zeros(8_000)
    parts = [part for pitch in pitches for part in (0.3 * np.sin(2 * np.pi * pitch * time), pause)]
    soundfile.write(path, np.concatenate(parts), 16_000)
    return str(path)


def test_many_clients(toy_server, tones, capsys):
    options = ["--url", toy_server.url, "--clients", "16", "--seconds", "1", "--clips", "6", "--pid", str(os.getpid())]
    assert main([tones, *options, "--key", KEY]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[1].split()[:2] == ["1", "6"] and rows[2].split()[0] == "16" and rows[-1].startswith("memory: ")
    assert main([tones, *options, "--key", "wrong"]) == 1
    assert "401" in capsys.readouterr().err
