"""Our recogniser and its peers on one table of recordings: word error rate, speed, memory, case and punctuation.

    python -m recipes.benchmark asr_peers TABLE --systems greedy beam pocketsphinx --out outputs/asr_peers
    python -m recipes.benchmark asr_peers TABLE --model outputs/hybrid_tiny/model --threads 1 2 \\
        --systems ar greedy faster-whisper:tiny.en transformers:openai/whisper-base --against faster-whisper:tiny.en
    python -m recipes.benchmark asr_peers TABLE --systems ar faster-whisper:tiny.en --noise enhance.tsv --snr 5

Systems: a decoder of ours (greedy, beam, ar, dllm ...; ar:MODEL for another model than --model), with speech detection
and features; faster-whisper:SIZE_OR_FOLDER (int8) and faster-whisper-batched: (stretches of a recording in batches);
transformers:FOLDER_OR_HUB_ID (Whisper or a CTC model); pocketsphinx. All search greedily, beam excepted. Each runs in a
process of its own; recordings go through all systems in turn, a few at a time, so all of them meet the same load of the
machine, which processor time (cpu) does not count. Files are decoded beforehand. A system gets one recording at a time,
as in a dialogue, or with --together several, as from a folder; ours recognise those in shared batches.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from asr.console.program import program
from recipes.evaluation.processes import Process
from recipes.evaluation.recognisers import RATE, Choice
from recipes.evaluation.side_by_side import (
    difference_lines,
    error_rows,
    make_parser,
    real_time,
    signed,
    span,
    spread,
    table,
    write_json,
    write_texts,
)

BLOCK = 8  # least number of recordings that a system hears before it is the next one's turn
REST = 0.3  # seconds between systems with more than one thread: workers of the last one spin for a while
DURATIONS = ((0, 5), (5, 10), (10, 20), (20, 1e9))  # seconds
SEED = 0


@dataclass
class Heard:
    """What one system did on all recordings, in their order; `peak` is memory in MB."""

    texts: list[str] = field(default_factory=list)
    spent: list[float] = field(default_factory=list)  # seconds; those that were heard together share them by length
    worked: float = 0.0  # seconds of processor time
    peak: float = float("nan")


Runs = dict[int, dict[str, Heard]]  # by number of threads and label of the system


@dataclass(frozen=True)
class Noisy:
    """Recordings with a drawn stretch of a drawn noise at a signal-to-noise ratio; as they are without noises."""

    noises: list[np.ndarray]
    snr_db: float

    def __call__(self, wave: np.ndarray, number: int) -> np.ndarray:
        from asr.audio.augment import cut, mix_at_snr, seeded

        if not self.noises:
            return wave
        rng = seeded(SEED, number)
        noise = self.noises[rng.integers(len(self.noises))]
        return mix_at_snr(wave, cut(noise, len(wave), rng), self.snr_db).astype(np.float32)


def readable(recordings: list) -> tuple[list, np.ndarray]:
    """The recordings that can be decoded and their seconds; the others are named on stderr."""
    from asr.audio import AudioError

    kept, seconds = [], []
    for recording in recordings:
        try:
            seconds.append(len(recording.wave()) / RATE)
            kept.append(recording)
        except AudioError as error:
            print(f"left out: {error}", file=sys.stderr)
    return kept, np.array(seconds)


def blocks(recordings: list, noisy: Noisy, size: int = BLOCK) -> Iterator[list[np.ndarray]]:
    for first in range(0, len(recordings), size):
        chosen = recordings[first : first + size]
        yield [noisy(r.wave(), first + i) for i, r in enumerate(chosen)]


def run(choices: list[Choice], recordings: list, noisy: Noisy, together: int = 1) -> dict[str, Heard]:
    """What every system hears, by its label, if it gets so many recordings together.

    Raises:
        ValueError: one cannot be loaded.
    """
    from tqdm import tqdm

    processes: list[Process] = []
    heard = {choice.label: Heard() for choice in choices}
    try:
        for choice in choices:
            processes.append(Process(choice))
            processes[-1].ready()
        with tqdm(total=len(recordings), unit="file", file=sys.stderr) as bar:
            for waves in blocks(recordings, noisy, max(BLOCK, together)):
                for process in processes:
                    time.sleep(REST if process.choice.threads > 1 else 0)
                    for first in range(0, len(waves), together):
                        hear(process, waves[first : first + together], heard[process.choice.label])
                bar.update(len(waves))
    finally:
        for process in processes:
            heard[process.choice.label].peak = process.stop()
    return heard


def hear(process: Process, waves: list[np.ndarray], heard: Heard) -> None:
    """Give a system some recordings together and add what came of it."""
    texts, spent, worked = process(waves)
    samples = sum(map(len, waves))
    heard.texts += texts
    heard.spent += [spent * len(wave) / samples for wave in waves]
    heard.worked += worked


# -- what is measured --------------------------------------------------------------------------------------


def summarise(references: list[str], seconds: np.ndarray, runs: Runs, against: list[str]) -> dict[str, dict]:
    """Error rates, speed by number of threads, durations, case and punctuation of every system, by its label."""
    from asr.score import normalised
    from recipes.evaluation.written import writing

    texts = {label: heard.texts for label, heard in next(iter(runs.values())).items()}
    said, plain = normalised(references), {k: normalised(t) for k, t in texts.items()}
    rates, raw = error_rows(said, plain, against), error_rows(references, texts)
    return {
        label: {
            **rates[label],
            "raw": {key: raw[label][key] for key in ("wer", "interval", "cer")},
            "speed": {
                threads: {
                    **real_time(heard[label].spent, seconds),
                    "cpu": heard[label].worked / float(seconds.sum()),
                    "memory_mb": heard[label].peak,
                }
                for threads, heard in runs.items()
            },
            "durations": by_duration(
                said, plain[label], seconds, {t: h[label].spent for t, h in runs.items()},
                {rival: plain[rival] for rival in against if rival != label},
            ),
            "writing": writing(references, texts[label]),
        }
        for label in texts
    }


def by_duration(
    said: list[str], found: list[str], seconds: np.ndarray, spent: dict[int, list[float]], rivals: dict[str, list[str]]
) -> list[dict]:
    """WER, speed and the 95 % intervals of the difference to each rival (paired bootstrap) of recordings by length."""
    from asr.score import error_counts, paired_bootstrap

    counts, rows = error_counts(said, found), []
    others = {rival: error_counts(said, texts) for rival, texts in rivals.items()}
    for low, high in DURATIONS:
        chosen = np.flatnonzero((seconds >= low) & (seconds < high))
        if len(chosen):
            rtf = {t: float(np.array(s)[chosen].sum() / seconds[chosen].sum()) for t, s in spent.items()}
            name = f"{low}-{high} s" if high < 1e9 else f"over {low} s"
            own = counts.select(chosen)
            minus = {rival: paired_bootstrap(other.select(chosen), own)[:2] for rival, other in others.items()}
            rows.append({"seconds": name, "count": len(chosen), "wer": own.rate, "rtf": rtf, "minus": minus})
    return rows


# -- what is shown -----------------------------------------------------------------------------------------


def shown(result: dict[str, dict]) -> str:
    """Everything as tables and sentences."""
    from asr.score import whisper_normaliser

    first = next(iter(result.values()))
    speeds = [f"{name}, {t} thread{'s' * (t > 1)}" for t in first["speed"] for name in ("RTF", "p95", "cpu", "MB")]
    rows = []
    for label, values in result.items():
        rates = (f"{rate:.2%}" for rate in (values["raw"]["wer"], values["cer"]))
        cells = [f"{values['wer']:.2%}", span(values["interval"]), *rates]
        for speed in values["speed"].values():
            cells += [f"{speed[name]:.4f}" for name in ("rtf", "rtf_p95", "cpu")] + [f"{speed['memory_mb']:.0f}"]
        rows.append([label, *cells])
    parts = [table(("system", "WER", "95 % interval", "WER raw", "CER", *speeds), rows)]
    parts.append("\n".join([f"normaliser: {whisper_normaliser()[0]}", *difference_lines(result)]))
    heads = ["by duration, WER and RTF", *(f"{row['seconds']} ({row['count']})" for row in first["durations"])]
    rows = [
        [label, *(f"{d['wer']:.2%}  " + " ".join(f"{f:.4f}" for f in d["rtf"].values()) for d in values["durations"])]
        for label, values in result.items()
    ]
    parts.append(table(heads, rows))
    if any(values["minus"] for values in result.values()):
        rows = [
            [f"{label} minus {rival}", *(signed(row["minus"][rival]) for row in values["durations"])]
            for label, values in result.items()
            for rival in values["minus"]
        ]
        parts.append(table(["by duration, difference of WER (95 %, paired bootstrap)", *heads[1:]], rows))
    if first["writing"]:
        rows = []
        for label, values in result.items():
            shares = [values["writing"]["capitalised"], *values["writing"]["f1"].values()]
            rows.append([label, *("-" if share is None else f"{share:.1%}" for share in shares)])
        kinds = [f"F1 of {kind}" for kind in first["writing"]["f1"]]
        parts.append(table(("writing", "sentence starts capitalised", *kinds), rows))
    return "\n\n".join(parts)


def write(out: Path, ids: list[str], runs: Runs, result: dict[str, dict], about: str) -> None:
    """Write result.json, the texts of each system, scatter.png and scatter.html."""
    from recipes.evaluation.scatter import Point, write_scatter

    texts = {label.replace(":", "_"): heard.texts for label, heard in next(iter(runs.values())).items()}
    write_json(out / "result.json", {"about": about, "systems": result})
    write_texts(out, ids, texts)
    points = [
        Point(label, threads, speed["rtf"], values["wer"])
        for label, values in result.items()
        for threads, speed in values["speed"].items()
    ]
    write_scatter(out, "Word error rate against speed", points, about)


def _parser():
    parser = make_parser("asr_peers", __doc__)
    option = parser.add_argument
    option("table", help="recordings with columns id, path, text")
    option("--systems", nargs="+", default=["greedy", "beam"], help="see above (default: %(default)s)")
    option("--model", help="name, folder or Hub id for our decoders (default: the model that ships)")
    option("--compute_type", default="auto", help="of our models: auto, float32, bfloat16, int8 (default: auto)")
    option("--threads", type=int, nargs="+", default=[1], help="measure speed with each number (default: 1)")
    option("--together", type=int, default=1, help="recordings that a system gets at once (default: %(default)s)")
    option("--against", nargs="+", default=[], metavar="SYSTEM", help="compare all others with these, pairwise")
    option("--noise", metavar="TABLE", help="mix in noise: rows of split dev and kind noise, columns path, split, kind")
    option("--snr", type=float, default=5.0, help="signal-to-noise ratio of that in dB (default: %(default)s)")
    option("--limit", type=int, help="only so many recordings, spread over the table")
    option("--out", type=Path, help="folder for result.json, the texts and the plots")
    return parser


@program
def main(argv: list[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    choices = [Choice(name, model=args.model, compute_type=args.compute_type) for name in args.systems]
    labels = {choice.name: choice.label for choice in choices}
    if len(set(labels.values())) < len(choices):
        parser.error(f"two systems have one name: {', '.join(choice.label for choice in choices)}")
    if args.together < 1:
        parser.error(f"--together {args.together}: at least 1 recording at a time")
    if unknown := [name for name in args.against if name not in labels]:
        parser.error(f"--against {unknown[0]} is not among --systems {' '.join(labels)}")

    from recipes.data.corpora import read_noises, read_table

    try:
        listed = spread(read_table(args.table), args.limit)
        recordings, seconds = readable(listed)
        noisy = Noisy(read_noises(args.noise, "dev"), args.snr)
        if not recordings or (args.noise and not noisy.noises):
            raise ValueError(f"{args.noise if recordings else args.table}: nothing there can be used")
        runs = {
            threads: run([replace(choice, threads=threads) for choice in choices], recordings, noisy, args.together)
            for threads in dict.fromkeys(args.threads)
        }
        result = summarise([r.text for r in recordings], seconds, runs, [labels[name] for name in args.against])
        noise = f", noise of {Path(args.noise).name} at {args.snr:g} dB" if args.noise else ""
        noise += f", {args.together} at once" if args.together > 1 else ""
        about = f"{len(recordings)} recordings of {Path(args.table).name}, {seconds.sum() / 60:.1f} min{noise}"
        if args.out:
            write(args.out, [r.id for r in recordings], runs, result, about)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(f"{about}\n\n{shown(result)}")
    return 0 if len(recordings) == len(listed) else 1
