"""A toy language of tones, made on the spot: what tests and `experiment=debug` train on.

Each letter is a 90 ms tone of its own pitch and a space is a pause, so a recogniser of a hundred thousand
weights learns to read it in a minute on a CPU. No recording and no download is needed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from asr.audio.augment import seeded
from asr.audio.features import SAMPLING_RATE
from asr.ctc.encoder import EncoderConfig
from asr.text.tokenizer import Tokenizer
from recipes.data.features import Content
from recipes.data.speech_data import Share, SpeechData
from recipes.data.store import shard_exists, write_shard
from recipes.tasks.ctc import CTCTask

WORDS = ("abba", "cab", "dad", "bead", "face", "babe", "cafe", "deed", "fed", "bad")
TONES = dict(zip("abcdef", np.geomspace(300, 3000, 6), strict=True))  # Hz
LETTER = int(0.09 * SAMPLING_RATE)


def say(text: str, rng: np.random.Generator) -> np.ndarray:
    """The text in tones, float32 [samples] at 16 kHz, with a little noise and a drawn loudness."""
    time = np.arange(LETTER) / SAMPLING_RATE
    fade = np.hanning(LETTER)
    letters = [np.sin(2 * np.pi * TONES[c] * time) * fade if c in TONES else np.zeros(LETTER) for c in text]
    wave = np.concatenate(letters) * rng.uniform(0.1, 0.8)
    return (wave + 0.003 * rng.standard_normal(len(wave))).astype(np.float32)


def sentences(count: int, rng: np.random.Generator) -> list[str]:
    return [" ".join(rng.choice(WORDS, rng.integers(1, 4))) for _ in range(count)]


def write_store(folder: Path, utterances: int, seed: int, content: Content = Content()) -> None:
    """A feature store of toy utterances; nothing is done when it is there already."""
    if shard_exists(folder, 0):
        return
    rng = seeded(seed)
    texts = sentences(utterances, rng)
    features = [content.of(say(text, rng), text, 1.0)[0] for text in texts]
    examples = [{"id": f"toy-{i}", "text": text, "speaker": "toy"} for i, text in enumerate(texts)]
    write_shard(folder, 0, examples, features, content.features)


def toy_task(
    folder: str, encoder: EncoderConfig, utterances: int = 400, batch_seconds: float = 20.0, seed: int = 0
) -> CTCTask:
    """A CTC task on the toy language; its data is written under `folder` first."""
    root = Path(folder)
    write_store(root / "train", utterances, seed)
    write_store(root / "validation", 40, seed + 1)
    tokenizer = root / "tokenizer.json"
    tokenizer.write_text(Tokenizer.train(sentences(200, seeded(seed)), 40).definition, encoding="utf-8")
    data = SpeechData(
        stores=[Share(str(root / "train"))],
        validation=str(root / "validation"),
        batch_seconds=batch_seconds,
        epoch_hours=utterances / 3600,
        shortest=0.1,
    )
    return CTCTask(encoder, str(tokenizer), data, seed=seed)
