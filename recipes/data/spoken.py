"""Text spoken by drawn voices in rooms and noise, shard by shard: as features or as audio files with a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from recipes.data.features import SHARD_UTTERANCES, Content, noises

SECONDS_PER_CHARACTER = 0.065  # read English; measured on espeak-ng and flite at their own tempo
WARP = (0.84, 1.18)  # of the vocal tract, for voices whose formants stay


@dataclass(frozen=True)
class Spoken:
    """How text is spoken. A shard depends on these and its number only.

    Args:
        text: file of sentences, one a line, written or normalised (.xz is read too).
        voices: families, as `dlm.tts.engines` takes them.
        normalise: the text of an utterance is normalised; what is spoken stays as written. Sentences with digits are
            left out, as their words are not written down.
        longest: sentences of more characters are left out.
        strength: of the augmentation (0 speed only, 1 default).
        seed: repeats all of it.
    """

    text: str
    voices: tuple[str, ...]
    normalise: bool = False
    longest: int = 200
    strength: float = 1.0
    seed: int = 0

    @property
    def sentences(self) -> list[str]:
        """What to say.

        Raises:
            ValueError: no sentence is left.
        """
        return _sentences(self.text, self.longest, self.normalise)

    def shards(self, hours: float) -> int:
        """How many shards make about so much speech."""
        mean_seconds = SECONDS_PER_CHARACTER * sum(map(len, self.sentences)) / len(self.sentences)
        return max(1, round(hours * 3600 / mean_seconds / SHARD_UTTERANCES))

    def utterances(self, shard: int) -> Iterator[tuple[dict, np.ndarray, float]]:
        """id, text and speaker, the wave [samples] at 16 kHz, and the warp of its features."""
        from asr.audio.augment import recorded_speech_chain, seeded
        from asr.text.tokenizer import normalise_text

        cast, chain = _cast(self.voices), recorded_speech_chain(noises(), self.strength)
        sentences = self.sentences
        count = min(SHARD_UTTERANCES, len(sentences))
        for index in seeded(self.seed, shard).choice(len(sentences), count, replace=False):
            rng = seeded(self.seed, shard, index)
            utterance, wave, warp = cast.speak(sentences[index], rng, WARP)
            if wave is None:
                continue
            text = normalise_text(utterance.text) if self.normalise else utterance.text
            about = {"id": f"tts-{self.seed}-{shard}-{index}", "text": text, "speaker": str(utterance.voice)}
            yield about, chain(wave, rng), warp


@lru_cache(maxsize=1)
def _sentences(text: str, longest: int, normalise: bool) -> list[str]:
    from recipes.data.corpora import read_sentences

    lines = [line for line in read_sentences(text) if len(line) <= longest]
    sentences = [line for line in lines if not (normalise and any(map(str.isdigit, line)))]
    if not sentences:
        raise ValueError(f"{text} has no sentence to speak: they may be {longest} characters long at most")
    return sentences


@lru_cache(maxsize=1)
def _cast(voices: tuple[str, ...]):
    """The voices of this worker process, loaded once."""
    from dlm.tts import Cast, engines

    return Cast(engines(voices))


def feature_shard(shard: int, spoken: Spoken, out: Path, content: Content = Content()) -> None:
    """Write one shard of a feature store."""
    from recipes.data.store import write_shard

    examples, features = [], []
    for about, wave, warp in spoken.utterances(shard):
        found, extra = content.of(wave, about["text"], warp)
        features.append(found)
        examples.append({**about, **extra})
    write_shard(out, shard, examples, features, content.features)


def audio_shard(shard: int, spoken: Spoken, out: Path, suffix: str) -> None:
    """Write one shard as audio files, OUT/00007/ID.flac, and their table OUT/00007.tsv, which appears last."""
    from asr.audio.io import save
    from recipes.data.corpora import COLUMNS, write_rows

    rows = []
    for about, wave, _ in spoken.utterances(shard):
        path = f"{shard:05d}/{about['id']}{suffix}"
        save(out / path, wave)
        rows.append({**about, "path": path, "source": "synthetic", "seconds": f"{len(wave) / 16000:.2f}"})
    write_rows(audio_table(out, shard), rows, COLUMNS)


def audio_table(out: Path, shard: int) -> Path:
    return out / f"{shard:05d}.tsv"


def join_tables(out: Path, shards: int) -> Path | None:
    """Write OUT/table.tsv of all shards; None while another machine still works on some."""
    from recipes.data.corpora import COLUMNS, read_rows, write_rows

    parts = [audio_table(out, shard) for shard in range(shards)]
    if not all(part.exists() for part in parts):
        return None
    write_rows(out / "table.tsv", [row for part in parts for row in read_rows(part)], COLUMNS)
    return out / "table.tsv"
