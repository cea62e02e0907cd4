"""Prepare training data: augmented log-mel features of recordings, and synthetic speech of text.

    python -m recipes.prepare recorded  TABLE OUT --copies 10 --noise NOISE_TABLE
    python -m recipes.prepare synthetic TEXT  OUT --hours 50 --voices flite --noise NOISE_TABLE

Both write feature stores (see recipes/store.py) shard by shard. Every shard depends on the seed and its own
number only, so a killed run continues where it stopped, and several machines can share the work with
`--shard_index I --shard_count N`.
"""

from __future__ import annotations

import argparse
import csv
import lzma
import multiprocessing
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

SHARD_UTTERANCES = 500


@dataclass(frozen=True)
class Recording:
    id: str
    path: Path
    speaker: str
    text: str


def read_table(table: str | Path) -> list[Recording]:
    """Recordings of a tab-separated table with a header and columns id, path, text (speaker is optional).

    Paths are relative to the table's folder or, failing that, to the folder above it.

    Raises:
        ValueError: a column is missing.
    """
    table = Path(table)
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    for column in ("id", "path", "text"):
        if rows and column not in rows[0]:
            raise ValueError(f"{table} has columns {list(rows[0])}: it needs a tab-separated column '{column}'")
    root = next((r for r in (table.parent, table.parent.parent) if rows and (r / rows[0]["path"]).exists()), table.parent)
    return [Recording(r["id"], root / r["path"], r.get("speaker") or r["id"], r["text"]) for r in rows]


def read_noises(table: str | Path | None, split: str = "train") -> list:
    """Noise waves at 16 kHz listed in a table with columns path, split and kind (rows of kind "noise")."""
    from asr.audio.io import load_audio

    if table is None:
        return []
    with open(table, newline="", encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file, delimiter="\t") if r["kind"] == "noise" and r["split"] == split]
    return [load_audio(Path(table).parent / r["path"]) for r in rows]


def read_sentences(path: str | Path) -> list[str]:
    """Sentences of a text file, one a line; .xz is read as it is."""
    opener = lzma.open if str(path).endswith(".xz") else open
    with opener(path, "rt", encoding="utf-8") as file:
        return [line.strip() for line in file if line.strip()]


def features_of(wave, rng, warp: tuple[float, float]):
    """Float16-ready log-mel [frames, mel] of a wave under a drawn vocal-tract warp."""
    import torch

    from asr.audio.features import log_mel

    return log_mel(torch.from_numpy(wave), warp=round(float(rng.uniform(*warp)), 2)).numpy()


def recorded_shard(shard: int, recordings: list[Recording], copies: int, strength: float, seed: int, out: Path) -> None:
    """Write one shard of augmented recordings; copy 0 of each recording is left as it is."""
    from asr.audio.augment import recorded_speech_chain, seeded
    from asr.audio.io import load_audio
    from recipes.store import write_shard

    chain, examples, features = recorded_speech_chain(_worker_noises(), strength), [], []
    first = shard * SHARD_UTTERANCES
    for number in range(first, min(first + SHARD_UTTERANCES, len(recordings) * copies)):
        copy, index = divmod(number, len(recordings))
        rng, recording = seeded(seed, number), recordings[index]
        wave = load_audio(recording.path)
        if copy:
            wave = chain(wave, rng)
        features.append(features_of(wave, rng, (0.88, 1.12) if copy else (1.0, 1.0)))
        examples.append({"id": f"{recording.id}#{copy}", "text": recording.text, "speaker": recording.speaker})
    write_shard(out, shard, examples, features)


def synthetic_shard(shard: int, sentences: list[str], families: tuple[str, ...], strength: float, seed: int, out: Path) -> None:
    """Write one shard of spoken sentences in drawn voices, rates, pitches and vocal tracts."""
    from asr.audio.augment import recorded_speech_chain, seeded
    from dlm.tts import CommandTTS, Utterance
    from recipes.store import write_shard

    tts = CommandTTS(families, workers=1)
    by_family = [[v for v in tts.voices() if v.family == family] for family in families]
    chain, rng = recorded_speech_chain(_worker_noises(), strength), seeded(seed, shard)
    chosen = rng.choice(len(sentences), SHARD_UTTERANCES, replace=False)
    utterances = []
    for index in chosen:
        voices = by_family[rng.integers(len(by_family))]
        voice = voices[rng.integers(len(voices))]
        utterances.append(Utterance(sentences[index], voice, rng.uniform(0.8, 1.2), rng.uniform(0.75, 1.3)))
    waves = tts.synthesize(utterances)
    kept = [(i, u, w) for i, u, w in zip(chosen, utterances, waves, strict=True) if w is not None]
    features = [features_of(chain(wave, rng), rng, (0.84, 1.18)) for _, _, wave in kept]
    examples = [{"id": f"tts-{shard}-{i}", "text": u.text, "speaker": str(u.voice)} for i, u, _ in kept]
    write_shard(out, shard, examples, features)


_noises: list = []


def _worker_noises() -> list:
    return _noises


def _start_worker(noise_table: str | None) -> None:
    import torch

    torch.set_num_threads(1)
    _noises.extend(read_noises(noise_table))


def run_shards(job: Callable[[int], None], shards: Iterable[int], out: Path, workers: int, noise_table: str | None) -> None:
    """Run the missing shards in worker processes, with a progress bar on stderr."""
    from tqdm import tqdm

    from recipes.store import shard_exists

    missing = [shard for shard in shards if not shard_exists(out, shard)]
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, _start_worker, (noise_table,)) as pool:
        for _ in tqdm(pool.imap_unordered(job, missing), total=len(missing), unit="shard", desc=out.name):
            pass


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m recipes.prepare", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, source in (("recorded", "table with columns id, path, text"), ("synthetic", "text file, a sentence a line")):
        command = commands.add_parser(name)
        command.add_argument("source", help=source)
        command.add_argument("out", type=Path, help="folder of the feature store")
        command.add_argument("--noise", help="table with columns path, split, kind: recordings of noise to mix in")
        command.add_argument("--strength", type=float, default=1.0, help="augmentation strength (0 none, 1 default)")
        command.add_argument("--workers", type=int, default=2)
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--shard_index", type=int, default=0, help="this machine's number, from 0")
        command.add_argument("--shard_count", type=int, default=1, help="number of machines")
        if name == "recorded":
            command.add_argument("--copies", type=int, default=10, help="augmented copies of each recording")
        else:
            command.add_argument("--hours", type=float, default=10.0, help="about how much speech to make")
            command.add_argument("--voices", default="espeak,flite", help="TTS families, comma-separated")
            command.add_argument("--max_characters", type=int, default=200, help="leave longer sentences out")
    args = parser.parse_args(argv)

    if args.command == "recorded":
        recordings = read_table(args.source)
        shards = -(-len(recordings) * args.copies // SHARD_UTTERANCES)
        job = partial(recorded_shard, recordings=recordings, copies=args.copies, strength=args.strength,
                      seed=args.seed, out=args.out)
    else:
        sentences = [s for s in read_sentences(args.source) if len(s) <= args.max_characters]
        mean_seconds = 0.065 * sum(map(len, sentences)) / len(sentences)  # about 15 characters a second
        shards = round(args.hours * 3600 / mean_seconds / SHARD_UTTERANCES)
        job = partial(synthetic_shard, sentences=sentences, families=tuple(args.voices.split(",")),
                      strength=args.strength, seed=args.seed, out=args.out)
    run_shards(job, range(args.shard_index, shards, args.shard_count), args.out, args.workers, args.noise)
    return 0


if __name__ == "__main__":
    sys.exit(main())
