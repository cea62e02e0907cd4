"""Feature stores made shard by shard: augmented recordings and synthetic speech (`python -m recipes.prepare`).

A shard depends on the seed and its own number only, so several machines can share the work.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

SHARD_UTTERANCES = 500
SECONDS_PER_CHARACTER = 0.065  # read English; measured on espeak-ng and flite at their own tempo
_noises: list = []  # of this worker process


def recorded_shard(shard: int, recordings: list, copies: int, strength: float, seed: int, out: Path) -> None:
    """Write one shard of augmented recordings; copy 0 of each recording is left as it is."""
    from asr.audio import AudioError
    from asr.audio.augment import recorded_speech_chain, seeded
    from recipes.data.store import write_shard

    chain, examples, features = recorded_speech_chain(_noises, strength), [], []
    first = shard * SHARD_UTTERANCES
    for number in range(first, min(first + SHARD_UTTERANCES, len(recordings) * copies)):
        copy, index = divmod(number, len(recordings))
        rng, recording = seeded(seed, number), recordings[index]
        try:
            wave = recording.wave()
        except AudioError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        if copy:
            wave = chain(wave, rng)
        features.append(_features(wave, rng, (0.88, 1.12) if copy else (1.0, 1.0)))
        examples.append({"id": f"{recording.id}#{copy}", "text": recording.text, "speaker": recording.speaker})
    write_shard(out, shard, examples, features)


def synthetic_shard(
    shard: int, sentences: list[str], families: tuple[str, ...], strength: float, seed: int, out: Path
) -> None:
    """Write one shard of spoken sentences in drawn voices, rates, pitches and vocal tracts."""
    from asr.audio.augment import recorded_speech_chain, seeded
    from dlm.tts import CommandTTS, Utterance
    from recipes.data.store import write_shard

    tts = CommandTTS(families, workers=1)
    by_family = [[v for v in tts.voices() if v.family == family] for family in families]
    chain, rng = recorded_speech_chain(_noises, strength), seeded(seed, shard)
    chosen = rng.choice(len(sentences), min(SHARD_UTTERANCES, len(sentences)), replace=False)
    utterances = []
    for index in chosen:
        voices = by_family[rng.integers(len(by_family))]
        voice = voices[rng.integers(len(voices))]
        utterances.append(Utterance(sentences[index], voice, rng.uniform(0.8, 1.2), rng.uniform(0.75, 1.3)))
    waves = tts.synthesize(utterances)
    kept = [(i, u, w) for i, u, w in zip(chosen, utterances, waves, strict=True) if w is not None]
    features = [_features(chain(wave, rng), rng, (0.84, 1.18)) for _, _, wave in kept]
    examples = [{"id": f"tts-{shard}-{i}", "text": u.text, "speaker": str(u.voice)} for i, u, _ in kept]
    write_shard(out, shard, examples, features)


def _features(wave, rng, warp: tuple[float, float]):
    """Log-mel [frames, mel] of a wave under a drawn vocal-tract warp."""
    import torch

    from asr.audio.features import log_mel

    return log_mel(torch.from_numpy(wave), warp=round(float(rng.uniform(*warp)), 2)).numpy()


def _start_worker(noise_table: str | None) -> None:
    import torch

    from recipes.data.corpora import read_noises

    torch.set_num_threads(1)
    _noises.extend(read_noises(noise_table))


def run_shards(
    job: Callable[[int], None], shards: Iterable[int], out: Path, workers: int, noise_table: str | None
) -> None:
    """Run the missing shards in worker processes, with a progress bar on stderr."""
    from tqdm import tqdm

    from recipes.data.store import shard_exists

    missing = [shard for shard in shards if not shard_exists(out, shard)]
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, _start_worker, (noise_table,)) as pool:
        for _ in tqdm(pool.imap_unordered(job, missing), total=len(missing), unit="shard", desc=out.name):
            pass
