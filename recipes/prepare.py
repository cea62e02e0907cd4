"""Prepare training data. Every step can be killed and run again; it goes on where it stopped.

    python -m recipes.prepare librispeech FOLDER --parts dev-clean train-clean-100
    python -m recipes.prepare tokenizer TEXT tokenizer256.json --vocabulary 256
    python -m recipes.prepare ngram     TEXT ngram.npz --tokenizer tokenizer256.json
    python -m recipes.prepare label     TABLE OUT --model openai/whisper-base --second openai/whisper-tiny.en
    python -m recipes.prepare combine   TABLE TABLE ... --out OUT --held_out DEV_TABLE
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

from asr.console.program import complain, printable, program, reason

VOICES = (
    "families, comma-separated: espeak, flite, festival, hibari[:NAME], piper[:FILE_FOLDER_OR_PACKAGE], "
    "vits:FOLDER_OR_HUB_ID (default: %(default)s); each is heard equally often"
)
MODEL = "recogniser of transformers (Whisper, CTC ...) or faster-whisper: folder or Hub id"
SECOND = "recognisers of which one must hear the same as the first where there is no text"
THRESHOLD = "highest word difference, normalised, of two recognisers that agree (default: %(default)s)"
HELD_OUT = "tables for testing: their recordings and their speakers are left out"
NORMALISE = "speak the text as written, but keep it in lower case without punctuation; leaves out sentences with digits"
FEATURES = "log_mel: what our own encoders read (default); whisper: what hybrid recognisers read, see hybrid_tiny"
ALIGN = "keep the times of the words too, by this recogniser of ours: tiny, which ships, or a folder"
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
    from recipes.data.spelling import normalised

    sentences = read_sentences(args.text)
    if args.written:
        sentences = map(written_text, sentences)
    else:
        sentences = filter(None, normalised(sentences, args.text))
    trained = Tokenizer.train(sentences, args.vocabulary, args.written)
    with atomic_path(args.out) as partial_file:
        partial_file.write_text(trained.definition, encoding="utf-8")


def ngram(args: argparse.Namespace) -> None:
    from asr.audio.io import atomic_path
    from asr.ctc.ngram import NGram
    from asr.text.tokenizer import Tokenizer, written_text
    from recipes.data.corpora import read_sentences
    from recipes.data.spelling import normalised

    tokenizer = Tokenizer.load(args.tokenizer)
    lines = read_sentences(args.text)
    if tokenizer.written:
        texts = [written_text(line) for line in lines]
    else:
        texts = list(filter(None, normalised(lines, args.text)))
    sentences = tokenizer.encode_batch(texts)
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


def recorded(args: argparse.Namespace) -> int:
    from recipes.data import features
    from recipes.data.corpora import read_table
    from recipes.data.spelling import spelled
    from recipes.data.store import shard_exists

    recordings = read_table(args.table)
    if args.features == "log_mel":  # of models that write normalised text; the others' stores keep what is written
        recordings = spelled(recordings, args.table)
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
    lost = sum(features.run_shards(job, missing, args.out.name, args.workers, args.noise))
    return 1 if lost else 0


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


def label(args: argparse.Namespace) -> int:
    from recipes.data import label, recording_rows
    from recipes.data.labellers import load_labeller

    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    settings = {name: getattr(args, name) for name in ("device", "compute_type", "language")}
    recognisers = [
        label.Recogniser(name, partial(load_labeller, name, batch=args.batch_size, **settings), str(settings))
        for name in (args.model, *args.second)
    ]
    rows = recording_rows.read(args.table)
    tally = label.label(rows, args.out, recognisers, args.threshold, args.shard_index, args.shard_count)
    if tally is None:
        print("this machine's shards are done; the last machine to finish writes the table", file=sys.stderr)
        return 0
    print(tally.text())
    return 1 if tally.count("unreadable") else 0


def combine(args: argparse.Namespace) -> int:
    from recipes.data import recording_rows

    rows, tally = recording_rows.combine(args.tables, args.held_out, args.unlabelled)
    recording_rows.write(args.out, rows)
    print(tally.text())
    return 1 if tally.count("missing file") else 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.prepare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for add in (_add_librispeech, _add_text_commands, _add_label, _add_combine, _add_recorded, _add_synthetic):
        add(commands)
    return parser


def _add_librispeech(commands) -> None:
    from recipes.data.corpora import LIBRISPEECH_PARTS

    command = commands.add_parser("librispeech", help="download LibriSpeech and write a table for each part")
    command.add_argument("folder", type=Path)
    command.add_argument("--parts", nargs="+", choices=LIBRISPEECH_PARTS, default=list(LIBRISPEECH_PARTS))
    command.set_defaults(run=librispeech)


def _add_text_commands(commands) -> None:
    command = commands.add_parser("tokenizer", help="learn a sub-word vocabulary")
    command.add_argument("text", help="normalised sentences (or any, with --written), one a line (.xz is read too)")
    command.add_argument("out", type=Path)
    command.add_argument("--vocabulary", type=int, default=256, help="units, four special ones included")
    command.add_argument("--written", action="store_true", help="keep capitals, digits and punctuation")
    command.set_defaults(run=tokenizer)

    command = commands.add_parser("ngram", help="estimate the n-gram language model of the beam search")
    command.add_argument("text", help="normalised sentences, or any for written units; one a line (.xz is read too)")
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


def _add_label(commands) -> None:
    command = commands.add_parser("label", help="write labels for recordings with recognisers")
    command.add_argument("table", help="columns id, path and, if known, speaker, source, seconds, text")
    command.add_argument("out", type=Path, help="table to write; what recognisers heard is kept beside it, in .parts")
    command.add_argument("--model", required=True, help=MODEL)
    command.add_argument("--second", nargs="+", default=[], metavar="MODEL", help=SECOND)
    command.add_argument("--threshold", type=float, default=0.1, help=THRESHOLD)
    command.add_argument("--device", default="cpu")
    command.add_argument("--compute_type", default="auto", choices=("auto", "float32", "bfloat16", "float16", "int8"))
    command.add_argument("--language", default="en", help="what is spoken, for Whisper (default: %(default)s)")
    command.add_argument("--batch_size", type=int, default=4, help="windows that a model hears together")
    command.add_argument("--threads", type=int, help="processor threads (default: all)")
    _add_shards(command)
    command.set_defaults(run=label)


def _add_combine(commands) -> None:
    command = commands.add_parser("combine", help="make one table of several")
    command.add_argument("tables", nargs="+", help="as for label; of two recordings with one id the first stays")
    command.add_argument("--out", type=Path, required=True, help="table to write")
    command.add_argument("--held_out", nargs="+", default=[], metavar="TABLE", help=HELD_OUT)
    command.add_argument("--unlabelled", action="store_true", help="keep recordings without text, to label them later")
    command.set_defaults(run=combine)


def _add_recorded(commands) -> None:
    command = commands.add_parser("recorded", help="features of recordings, augmented")
    command.add_argument("table", help="columns id, path, text[, speaker]; or a lhotse cut manifest")
    command.add_argument("--copies", type=int, default=10, help="augmented copies of each recording")
    _add_augmentation(command)
    command.set_defaults(run=recorded)


def _add_synthetic(commands) -> None:
    command = commands.add_parser("synthetic", help="synthetic speech: features or audio files")
    command.add_argument("text", help="sentences, one a line, written or normalised (.xz is read too)")
    command.add_argument("--hours", type=float, default=10.0, help="about how much speech to make")
    command.add_argument("--voices", default="espeak,flite", help=VOICES)
    command.add_argument("--max_characters", type=int, default=200, help="leave longer sentences out")
    command.add_argument("--normalise", action="store_true", help=NORMALISE)
    command.add_argument("--format", choices=("features", "flac", "opus"), default="features", help=FORMAT)
    _add_augmentation(command)
    command.set_defaults(run=synthetic)


def _add_augmentation(command: argparse.ArgumentParser) -> None:
    command.add_argument("out", type=Path, help="folder of what is made")
    command.add_argument("--features", choices=("log_mel", "whisper"), default="log_mel", help=FEATURES)
    command.add_argument("--align", metavar="MODEL", help=ALIGN)
    command.add_argument("--noise", help="table with columns path, split, kind: recordings of noise to mix in")
    command.add_argument("--strength", type=float, default=1.0, help="augmentation strength (0 none, 1 default)")
    command.add_argument("--workers", type=int, default=2)
    command.add_argument("--seed", type=int, default=0)
    _add_shards(command)


def _add_shards(command: argparse.ArgumentParser) -> None:
    command.add_argument("--shard_index", type=int, default=0, help="this machine's number, from 0")
    command.add_argument("--shard_count", type=int, default=1, help="number of machines")


@program
def main(argv: list[str] | None = None) -> int:
    parser = make_parser()
    args = parser.parse_args(argv)
    try:
        return args.run(args) or 0
    except (ValueError, OSError) as error:
        parser.error(printable(reason(error)))
    except KeyboardInterrupt:
        complain("interrupted; the same command goes on from the last finished shard")
        return 130


if __name__ == "__main__":
    sys.exit(main())
