"""Our recogniser and its peers on one table of recordings: word error rate, speed, speakers.

    python -m recipes.benchmark asr_peers TABLE --systems greedy beam pocketsphinx --out outputs/asr_peers

Every recording goes through every system in turn, so all of them meet the same load of the machine; the wave is
decoded beforehand. Real-time factors are processing seconds over audio seconds, with one thread each.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

System = Callable[[np.ndarray], str]


def our_system(decoder: str, model: str | None) -> System:
    """The recogniser on whole recordings, features included, with greedy or beam decoding."""
    from asr.loading import load_recogniser
    from asr.recogniser import DecodeOptions

    recogniser = load_recogniser(model, "cpu")
    options = DecodeOptions(decoder=decoder, word_timestamps=False)
    return lambda wave: recogniser.transcribe_batch([wave], options)[0].text


def pocketsphinx(model: str | None = None) -> System:
    """PocketSphinx 5 with the model, dictionary and language model of its package."""
    from pocketsphinx import Decoder

    decoder = Decoder(samprate=16000, loglevel="FATAL")

    def transcribe(wave: np.ndarray) -> str:
        decoder.start_utt()
        decoder.process_raw((wave * 32767).clip(-32768, 32767).astype(np.int16).tobytes(), full_utt=True)
        decoder.end_utt()
        return decoder.hyp().hypstr if decoder.hyp() else ""

    return transcribe


SYSTEMS = {
    "greedy": lambda model: our_system("greedy", model),
    "beam": lambda model: our_system("beam", model),
    "pocketsphinx": pocketsphinx,
}


def run(recordings: list, systems: dict[str, System]) -> tuple[dict[str, list[str]], dict[str, np.ndarray], np.ndarray]:
    """Texts and processing seconds of every system, and the seconds of every recording."""
    from tqdm import tqdm

    texts = {name: [] for name in systems}
    spent = {name: [] for name in systems}
    seconds = []
    warm = np.zeros(16000, np.float32)
    for system in systems.values():
        system(warm)
    for recording in tqdm(recordings, unit="file", file=sys.stderr):
        wave = recording.wave()
        seconds.append(len(wave) / 16000)
        for name, system in systems.items():
            started = time.perf_counter()
            texts[name].append(system(wave))
            spent[name].append(time.perf_counter() - started)
    return texts, {name: np.array(values) for name, values in spent.items()}, np.array(seconds)


def summarise(recordings: list, texts: dict[str, list[str]], spent: dict[str, np.ndarray], seconds: np.ndarray) -> dict:
    """Error rates with intervals, speakers, real-time factors and paired differences to the first system."""
    from asr.score import error_counts, paired_bootstrap, report

    references = {r.id: r.text for r in recordings}
    counts = {name: error_counts(list(references.values()), hypotheses) for name, hypotheses in texts.items()}
    first, result = next(iter(texts)), {}
    for name, hypotheses in texts.items():
        factors = spent[name] / seconds
        low, high, _ = paired_bootstrap(counts[first], counts[name])
        result[name] = {
            **report(references, dict(zip(references, hypotheses, strict=True)), by_speaker=True),
            "rtf": float(spent[name].sum() / seconds.sum()),
            "rtf_median": float(np.median(factors)),
            "rtf_p95": float(np.percentile(factors, 95)),
            "difference_to_first": [low, high],
        }
    return result


def print_table(result: dict) -> None:
    print(
        f"{'system':14s} {'WER raw':>8s} {'95 % interval':>17s} {'normalised':>11s} {'CER':>7s} {'RTF':>7s} {'p95':>7s}"
    )
    for name, values in result.items():
        raw, normalised = values["scores"][:2]
        low, high = raw["interval"]
        print(
            f"{name:14s} {raw['wer']:8.2%} {low:8.2%}-{high:8.2%} {normalised['wer']:11.2%} {raw['cer']:7.2%} "
            f"{values['rtf']:7.4f} {values['rtf_p95']:7.4f}"
        )
    first = next(iter(result))
    for name in list(result)[1:]:
        low, high = result[name]["difference_to_first"]
        print(f"WER of {name} minus {first}: 95 % interval {low:+.2%} to {high:+.2%} (paired bootstrap)")
    print("\nWER by speaker")
    speakers = {name: values["speakers"] for name, values in result.items()}
    for speaker in next(iter(speakers.values())):
        print(f"{speaker:8s} " + "  ".join(f"{name} {rows[speaker]['wer']:.2%}" for name, rows in speakers.items()))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.benchmark asr_peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("table", help="recordings with columns id, path, text")
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS))
    parser.add_argument("--model", help="name, folder or Hub id for our systems (default: the one that ships)")
    parser.add_argument("--limit", type=int, help="only so many recordings, spread over the table")
    parser.add_argument("--out", type=Path, help="folder for result.json and the hypotheses")
    args = parser.parse_args(argv)

    import torch

    from recipes.data.corpora import read_table

    torch.set_num_threads(1)
    recordings = read_table(args.table)
    if args.limit:
        recordings = [
            recordings[i] for i in np.linspace(0, len(recordings) - 1, min(args.limit, len(recordings))).astype(int)
        ]
    texts, spent, seconds = run(recordings, {name: SYSTEMS[name](args.model) for name in args.systems})
    result = summarise(recordings, texts, spent, seconds)
    print_table(result)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "result.json").write_text(json.dumps(result, indent=1))
        for name, hypotheses in texts.items():
            lines = [f"{r.id}\t{text}" for r, text in zip(recordings, hypotheses, strict=True)]
            (args.out / f"{name}.tsv").write_text("id\ttext\n" + "\n".join(lines) + "\n")
    return 0
