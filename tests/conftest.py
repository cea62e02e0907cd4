"""Audio for the tests, made on the spot: tones, which an energy detector takes for speech, and espeak-ng."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

RATE = 16_000


def tone(frequency: float, seconds: float, level: float = 0.3) -> np.ndarray:
    time = np.arange(round(seconds * RATE)) / RATE
    return (level * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE), np.float32)


@pytest.fixture
def make_tone():
    """tone(frequency in Hz, seconds) -> wave at 16 kHz."""
    return tone


@pytest.fixture
def make_silence():
    return silence


@pytest.fixture
def energy_detector():
    """A speech detector for segmenters that takes any sound for speech."""
    return lambda: lambda frames: (np.sqrt(np.mean(frames**2, axis=1)) > 0.01).astype(float)


@pytest.fixture(scope="session")
def speak(tmp_path_factory):
    """speak(text) -> wave at 16 kHz, by espeak-ng; skips the test where it is not installed."""
    if not shutil.which("espeak-ng"):
        pytest.skip("needs espeak-ng")
    folder = tmp_path_factory.mktemp("speech")

    def say(text: str, voice: str = "en-us") -> np.ndarray:
        from asr.audio.io import load

        path = folder / f"{abs(hash((text, voice)))}.wav"
        if not path.exists():
            subprocess.run(["espeak-ng", "-v", voice, "-w", str(path), text], check=True)
        return load(path)

    return say


@pytest.fixture(scope="session")
def tiny_ctc_model(tmp_path_factory) -> Path:
    """Folder of a tiny random model of ours that says some word in every frame."""
    import torch

    from asr.ctc.encoder import EncoderConfig
    from asr.ctc.model import CTCModel
    from asr.text.tokenizer import WORD_MARK, Tokenizer

    torch.manual_seed(0)
    config = EncoderConfig(width=32, heads=2, layers=(1, 1, 1), feed_forward=32, front_channels=4)
    tokenizer = Tokenizer.train(["hello world how are you"] * 4, vocabulary=48)
    model = CTCModel.create(config, tokenizer)
    with torch.no_grad():
        model.head.weight *= 10  # more variety than the same word all along
        for i, piece in enumerate(tokenizer.pieces):
            model.head.bias[i] = 0.0 if tokenizer.starts_word(i) and piece != WORD_MARK else -1e4
    folder = tmp_path_factory.mktemp("tiny_ctc")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_denoiser(tiny_ctc_model, tmp_path_factory) -> dict[str, Path]:
    """Folders of a tiny random denoiser ("dllm") and twin ("ar") on the tiny recogniser's encoder."""
    import torch

    from asr.ctc.model import CTCModel
    from asr.dllm.network import Denoiser, DenoiserConfig

    recogniser, folders = CTCModel.from_pretrained(tiny_ctc_model), {}
    for name in ("dllm", "ar"):
        torch.manual_seed(1)
        vocabulary = len(recogniser.tokenizer)
        config = DenoiserConfig(vocabulary, 32, width=32, heads=2, layers=2, feed_forward=32, causal=name == "ar")
        folders[name] = tmp_path_factory.mktemp(name)
        Denoiser.create(config, recogniser.tokenizer).save_pretrained(folders[name])
    return folders
