"""Feature stores made shard by shard (`python -m recipes.prepare`): here of augmented recordings, in `spoken` of text.

A shard depends on the seed and its own number only, so several machines can share the work.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SHARD_UTTERANCES = 500
_noises: list = []  # of this worker process


@dataclass(frozen=True)
class Content:
    """What a store keeps of an utterance.

    Args:
        features: one of `recipes.data.store.FEATURES`.
        aligner: folder or Hub id of a CTC recogniser that says when each word is spoken; None: nothing does.
    """

    features: str = "log_mel"
    aligner: str | None = None

    def of(self, wave: np.ndarray, text: str, warp: float) -> tuple[np.ndarray, dict]:
        """Log-mel [frames, mel] of a wave [samples], and further fields of its example.

        `warp` is of the vocal tract; Whisper's features are left as Whisper knows them.
        """
        import torch

        from asr.audio.features import log_mel, whisper_log_mel

        sound = torch.from_numpy(wave)
        features = whisper_log_mel(sound) if self.features == "whisper" else log_mel(sound, warp=round(warp, 2))
        if self.aligner is None:
            return features.numpy(), {}
        from recipes.data.alignment import aligner

        return features.numpy(), {"spans": aligner(self.aligner).spans(wave, text)}


def recorded_shard(
    shard: int, recordings: list, copies: int, strength: float, seed: int, out: Path, content: Content = Content()
) -> int:
    """Write one shard of augmented recordings; copy 0 of each recording is left as it is.

    Returns how many copies are missing, since their recordings cannot be read; copy 0 of these is named on stderr.
    """
    from asr.audio import AudioError
    from asr.audio.augment import recorded_speech_chain, seeded
    from recipes.data.store import write_shard

    chain, examples, features, lost = recorded_speech_chain(_noises, strength), [], [], 0
    first = shard * SHARD_UTTERANCES
    for number in range(first, min(first + SHARD_UTTERANCES, len(recordings) * copies)):
        copy, index = divmod(number, len(recordings))
        rng, recording = seeded(seed, number), recordings[index]
        try:
            wave = recording.wave()
        except AudioError as error:
            lost += 1
            if not copy:
                print(f"left out: {error}", file=sys.stderr)
            continue
        if copy:
            wave = chain(wave, rng)
        found, extra = content.of(wave, recording.text, float(rng.uniform(0.88, 1.12)) if copy else 1.0)
        features.append(found)
        about = {"id": f"{recording.id}#{copy}", "text": recording.text, "speaker": recording.speaker}
        examples.append({**about, **extra})
    write_shard(out, shard, examples, features, content.features)
    return lost


def noises() -> list:
    """Noise recordings [samples] of this worker process."""
    return _noises


def _start_worker(noise_table: str | None) -> None:
    import torch

    from recipes.data.corpora import read_noises

    torch.set_num_threads(1)
    _noises.extend(read_noises(noise_table))


def run_shards(
    job: Callable[[int], object], missing: Sequence[int], name: str, workers: int, noise_table: str | None
) -> list:
    """Results of a job for each missing shard, run in worker processes with a progress bar on stderr."""
    from tqdm import tqdm

    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, _start_worker, (noise_table,)) as pool:
        return list(tqdm(pool.imap_unordered(job, missing), total=len(missing), unit="shard", desc=name))
