"""The codec of L3-SE on clean speech: is what it resynthesises still understood, and is it the same voice?

    python -m recipes.benchmark l3se_codec speech/dev.tsv --codecs outputs/l3se_codec/model --judge faster-whisper:base
    python -m recipes.benchmark l3se_codec speech/dev.tsv --codecs 500=FOLDER 1000=FOLDER --out outputs/codec

Everything after it builds on the codec, so this comes first. A row for the recordings themselves, one for each codec:

    wer           word errors of the judge against the text, by Whisper's normaliser
    more          its word errors beyond those in the recordings, with a 95 % interval (paired bootstrap)
    estoi, ovrl   extended STOI; DNSMOS P.835 overall quality
    speaker       cosine of the voices of output and recording (--speaker_model, else "timbre")

Codecs named by numbers, the steps of one training, are drawn as curves too (--out, curves.png).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from asr.console.program import program
from recipes.benchmarks.l3se import codec_system, judged
from recipes.evaluation.figures import panels, save_png
from recipes.evaluation.judging import judging_options, make_judge, make_measures
from recipes.evaluation.mixtures import chosen_recordings, clean_mixtures
from recipes.evaluation.side_by_side import make_parser, table, write_json

RECORDINGS = "recordings"
GOALS = {"more": 0.05, "estoi": 0.75, "speaker": 0.7}  # what a codec should reach before anything is built on it


def run(args: argparse.Namespace) -> dict[str, dict]:
    """Rows by system, the recordings themselves first."""
    import torch
    from tqdm import tqdm

    torch.set_num_threads(1)
    folders = dict(entry.split("=", 1) if "=" in entry else (Path(entry).parent.name, entry) for entry in args.codecs)
    systems = {RECORDINGS: lambda wave: wave} | {name: codec_system(folder) for name, folder in folders.items()}
    judge, measures = make_judge(args.judge), make_measures(args.speaker_model)
    data = list(clean_mixtures(chosen_recordings(args.speech, args.count)))
    with tqdm(total=len(data) * len(systems), unit="file", file=sys.stderr) as bar:
        rows = judged(data, None, systems, judge, measures, bar.update)
    for row in rows.values():
        row["more"] = row["wer"] - rows[RECORDINGS]["wer"]
        row["interval"] = more_errors([m.text for m in data], rows[RECORDINGS]["heard"], row["heard"])
    return rows


def more_errors(texts: list[str], recordings: list[str], heard: list[str]) -> tuple[float, float]:
    """95 % interval of the word error rate of what was heard minus that in the recordings."""
    from asr.score import error_counts, normalised, paired_bootstrap

    return paired_bootstrap(*(error_counts(normalised(texts), normalised(found)) for found in (recordings, heard)))[:2]


def format_rows(rows: dict[str, dict], about: str) -> str:
    scores = [name for name in ("estoi", "ovrl", "speaker", "timbre") if name in rows[RECORDINGS]]
    cells = [
        [
            name, f"{row['wer']:.1%}", f"{row['more']:+.1%}", "{:+.1%} to {:+.1%}".format(*row["interval"]),
            *(f"{row[s]:.3f}" for s in scores),
        ]
        for name, row in rows.items()
    ]  # fmt: skip
    return about + "\n\n" + table(["", "wer", "more", "95 % interval", *scores], cells)


def draw(path: Path, rows: dict[str, dict]) -> None:
    """A panel a score against the step that each codec is named by, with the goals as lines."""
    steps = sorted((name for name in rows if name.isdigit()), key=int)
    scores = [s for s in ("more", "estoi", "ovrl", "speaker", "timbre") if s in rows[steps[0]]]
    figure, places = panels(len(scores), 3.6, 3.2)
    for axes, score in zip(places, scores, strict=True):
        axes.plot([int(s) for s in steps], [rows[s][score] for s in steps], "o-")
        if score in GOALS:
            axes.axhline(GOALS[score], color="grey", linestyle="--")
        axes.set(title={"more": "word errors added"}.get(score, score), xlabel="step")
        axes.grid(alpha=0.3)
    save_png(figure, path)


@program
def main(argv: list[str] | None = None) -> int:
    parser = make_parser("l3se_codec", __doc__)
    option = parser.add_argument
    option("speech", metavar="TABLE", help="recordings with columns id, path, text")
    option("--codecs", nargs="+", required=True, metavar="[NAME=]FOLDER", help="trained codecs, with their backbones")
    judging_options(option)
    option("--out", type=Path, help="folder for result.json, and for curves.png where codecs are named by steps")
    args = parser.parse_args(argv)
    try:
        rows = run(args)
        print(format_rows(rows, f"{args.count} utterances at most, judge {args.judge}"))
        if args.out:
            write_json(args.out / "result.json", rows)
            if any(name.isdigit() for name in rows):
                draw(args.out / "curves.png", rows)
    except (OSError, ValueError, ImportError) as error:
        print(str(error).splitlines()[0], file=sys.stderr)
        return 1
    return 0
