"""Prepare training data. Every step can be killed and run again; it goes on where it stopped.

    python -m recipes.prepare librispeech FOLDER --parts dev-clean train-clean-100
    python -m recipes.prepare tokenizer TEXT tokenizer256.json --vocabulary 256
    python -m recipes.prepare ngram     TEXT ngram.npz --tokenizer tokenizer256.json
    python -m recipes.prepare recorded  TABLE OUT --copies 12 --noise NOISE_TABLE
    python -m recipes.prepare synthetic TEXT  OUT --hours 40 --voices flite --noise NOISE_TABLE
    python -m recipes.prepare synthetic TEXT  OUT --hours 40 --voices hibari,piper --format opus
    python -m recipes.prepare tokenizer TEXT units512.json --vocabulary 512 --written    # for experiment=hybrid_tiny,
    python -m recipes.prepare recorded  TABLE OUT --copies 2 --features whisper          # with its features

`recorded` and `synthetic` write feature stores (recipes/data/store.py), or `synthetic` audio files, shard by shard. A
shard depends on the seed and its own number only, so several machines can share the work with --shard_index I
--shard_count N.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

VOICES = (
    "families, comma-separated: espeak, flite, festival, hibari[:NAME], piper[:FILE_FOLDER_OR_PACKAGE], "
    "vits:FOLDER_OR_HUB_ID (default: %(default)s); each is heard equally often"
)
NORMALISE = "speak the text as written, but keep it in lower case without punctuation; leaves out sentences with digits"
FEATURES = "log_mel: what our own encoders read (default); whisper: what hybrid recognisers read, see hybrid_tiny"
ALIGN = "keep the times of the words too, by this CTC recogniser of ours (a folder, or compact for the shipped one)"
FORMAT = "features: a feature store; flac, opus: audio files and OUT/table.tsv (default: %(default)s)"

# -- commands ----------------------------------------------------------------------------------------------


def librispeech(args: argparse.Namespace) -> None:
    from recipes.data.librispeech import prepare

    for part in args.parts:
        print(prepare(args.folder, part))


def tokenizer(args: argparse.Namespace) -> None:
    from asr.audio.io import atomic_path
    from asr.text.tokenizer import Tokenizer, written_text
    from recipes.data.corpora import read_sentences

    sentences = read_sentences(args.text)
    if args.written:
        sentences = map(written_text, sentences)
    trained = Tokenizer.train(sentences, args.vocabulary, args.written)
    with atomic_path(args.out) as partial_file:
        partial_file.write_text(trained.definition, encoding="utf-8")


def ngram(args: argparse.Namespace) -> None:
    from asr.audio.io import atomic_path
    from asr.ctc.ngram import NGram
    from asr.text.tokenizer import Tokenizer
    from recipes.data.corpora import read_sentences

    tokenizer = Tokenizer.load(args.tokenizer)
    sentences = tokenizer.encode_batch(read_sentences(args.text))
    lm = NGram.estimate(sentences, len(tokenizer), tokenizer.end_id, len(args.min_counts), tuple(args.min_counts))
    with atomic_path(args.out) as partial_file:
        lm.save(partial_file)
    print(f"n-grams of each order: {[len(keys) for keys in lm.keys]}", file=sys.stderr)


def content_of(args: argparse.Namespace):
    """What the store keeps. Raises ValueError where the one that is there keeps something else."""
    from recipes.data.features import Content
    from recipes.data.store import open_store

    open_store(args.out, args.features)
    return Content(args.features, args.align)


def recorded(args: argparse.Namespace) -> None:
    from recipes.data import features
    from recipes.data.corpora import read_table
    from recipes.data.store import shard_exists

    recordings = read_table(args.table)
    shards = -(-len(recordings) * args.copies // features.SHARD_UTTERANCES)
    job = partial(
        features.recorded_shard,
        recordings=recordings,
        copies=args.copies,
        strength=args.strength,
        seed=args.seed,
        out=args.out,
        content=content_of(args),
    )
    missing = [s for s in range(args.shard_index, shards, args.shard_count) if not shard_exists(args.out, s)]
    features.run_shards(job, missing, args.out.name, args.workers, args.noise)


def synthetic(args: argparse.Namespace) -> None:
    from dlm.tts import engines
    from recipes.data import spoken
    from recipes.data.features import run_shards
    from recipes.data.store import shard_exists

    voices = tuple(args.voices.split(","))
    engines(voices)  # says what is not installed before any work
    speech = spoken.Spoken(args.text, voices, args.normalise, args.max_characters, args.strength, args.seed)
    shards = speech.shards(args.hours)
    mine = range(args.shard_index, shards, args.shard_count)
    if args.format == "features":
        job = partial(spoken.feature_shard, spoken=speech, out=args.out, content=content_of(args))
        missing = [shard for shard in mine if not shard_exists(args.out, shard)]
    else:
        job = partial(spoken.audio_shard, spoken=speech, out=args.out, suffix=f".{args.format}")
        missing = [shard for shard in mine if not spoken.audio_table(args.out, shard).exists()]
    run_shards(job, missing, args.out.name, args.workers, args.noise)
    if args.format != "features" and (table := spoken.join_tables(args.out, shards)):
        print(table)


def make_parser() -> argparse.ArgumentParser:
    from recipes.data.corpora import LIBRISPEECH_PARTS

    parser = argparse.ArgumentParser(
        prog="python -m recipes.prepare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)

    command = commands.add_parser("librispeech", help="download LibriSpeech and write a table for each part")
    command.add_argument("folder", type=Path)
    command.add_argument("--parts", nargs="+", choices=LIBRISPEECH_PARTS, default=list(LIBRISPEECH_PARTS))
    command.set_defaults(run=librispeech)

    command = commands.add_parser("tokenizer", help="learn a sub-word vocabulary")
    command.add_argument("text", help="normalised sentences (or any, with --written), one a line (.xz is read too)")
    command.add_argument("out", type=Path)
    command.add_argument("--vocabulary", type=int, default=256, help="units, four special ones included")
    command.add_argument("--written", action="store_true", help="keep capitals, digits and punctuation")
    command.set_defaults(run=tokenizer)

    command = commands.add_parser("ngram", help="estimate the n-gram language model of the beam search")
    command.add_argument("text", help="normalised sentences, one a line (.xz is read too)")
    command.add_argument("out", type=Path)
    command.add_argument("--tokenizer", required=True)
    command.add_argument(
        "--min_counts",
        type=int,
        nargs="+",
        default=[1, 1, 1, 2, 2],
        help="for each order, how often an n-gram must be seen to be kept",
    )
    command.set_defaults(run=ngram)

    for name, help_text, run in (
        ("recorded", "features of recordings, augmented", recorded),
        ("synthetic", "features of synthetic speech", synthetic),
    ):
        command = commands.add_parser(name, help=help_text)
        if name == "recorded":
            command.add_argument("table", help="columns id, path, text[, speaker]; or a lhotse cut manifest")
            command.add_argument("--copies", type=int, default=10, help="augmented copies of each recording")
        else:
            command.add_argument("text", help="sentences, one a line, written or normalised (.xz is read too)")
            command.add_argument("--hours", type=float, default=10.0, help="about how much speech to make")
            command.add_argument("--voices", default="espeak,flite", help=VOICES)
            command.add_argument("--max_characters", type=int, default=200, help="leave longer sentences out")
            command.add_argument("--normalise", action="store_true", help=NORMALISE)
            command.add_argument("--format", choices=("features", "flac", "opus"), default="features", help=FORMAT)
        command.add_argument("out", type=Path, help="folder of what is made")
        command.add_argument("--features", choices=("log_mel", "whisper"), default="log_mel", help=FEATURES)
        command.add_argument("--align", metavar="MODEL", help=ALIGN)
        command.add_argument("--noise", help="table with columns path, split, kind: recordings of noise to mix in")
        command.add_argument("--strength", type=float, default=1.0, help="augmentation strength (0 none, 1 default)")
        command.add_argument("--workers", type=int, default=2)
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--shard_index", type=int, default=0, help="this machine's number, from 0")
        command.add_argument("--shard_count", type=int, default=1, help="number of machines")
        command.set_defaults(run=run)
    return parser


def main(argv: list[str] | None = None) -> int:
    parser = make_parser()
    args = parser.parse_args(argv)
    try:
        args.run(args)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last finished shard", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
