"""Our recogniser and its peers on one table of recordings: word error rate, speed, speakers.

    python -m recipes.benchmark asr_peers TABLE --systems greedy beam pocketsphinx --out outputs/asr_peers

Every recording goes through every system in turn, so all of them meet the same load of the machine; the wave is
decoded beforehand. Real-time factors are processing seconds over audio seconds, with one thread each.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from recipes.evaluation.recognisers import System, our_system, pocketsphinx
from recipes.evaluation.side_by_side import (
    make_parser,
    real_time,
    signed,
    span,
    spread,
    table,
    timed,
    write_json,
    write_texts,
)

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
            text, took = timed(lambda s=system, w=wave: s(w))
            texts[name].append(text)
            spent[name].append(took)
    return texts, {name: np.array(values) for name, values in spent.items()}, np.array(seconds)


def summarise(recordings: list, texts: dict[str, list[str]], spent: dict[str, np.ndarray], seconds: np.ndarray) -> dict:
    """Error rates with intervals, speakers, real-time factors and paired differences to the first system."""
    from asr.score import error_counts, paired_bootstrap, report

    references = {r.id: r.text for r in recordings}
    counts = {name: error_counts(list(references.values()), hypotheses) for name, hypotheses in texts.items()}
    first, result = next(iter(texts)), {}
    for name, hypotheses in texts.items():
        low, high, _ = paired_bootstrap(counts[first], counts[name])
        result[name] = {
            **report(references, dict(zip(references, hypotheses, strict=True)), by_speaker=True),
            **real_time(spent[name], seconds),
            "difference_to_first": [low, high],
        }
    return result


def print_table(result: dict) -> None:
    rows = []
    for name, values in result.items():
        raw, normalised = values["scores"][:2]
        rates = (f"{rate:.2%}" for rate in (normalised["wer"], raw["cer"]))
        speed = (f"{values[key]:.4f}" for key in ("rtf", "rtf_p95"))
        rows.append([name, f"{raw['wer']:.2%}", span(raw["interval"]), *rates, *speed])
    print(table(("system", "WER raw", "95 % interval", "normalised", "CER", "RTF", "p95"), rows))
    first, *others = result
    for name in others:
        print(f"WER of {name} minus {first}: {signed(result[name]['difference_to_first'])} (95 %, paired bootstrap)")
    print("\nWER by speaker")
    speakers = {name: values["speakers"] for name, values in result.items()}
    cells = [[s, *(f"{rows[s]['wer']:.2%}" for rows in speakers.values())] for s in next(iter(speakers.values()))]
    print(table(("speaker", *speakers), cells))


def main(argv: list[str] | None = None) -> int:
    parser = make_parser("asr_peers", __doc__)
    parser.add_argument("table", help="recordings with columns id, path, text")
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS))
    parser.add_argument("--model", help="name, folder or Hub id for our systems (default: the one that ships)")
    parser.add_argument("--limit", type=int, help="only so many recordings, spread over the table")
    parser.add_argument("--out", type=Path, help="folder for result.json and the hypotheses")
    args = parser.parse_args(argv)

    import torch

    from recipes.data.corpora import read_table

    torch.set_num_threads(1)
    recordings = spread(read_table(args.table), args.limit)
    texts, spent, seconds = run(recordings, {name: SYSTEMS[name](args.model) for name in args.systems})
    result = summarise(recordings, texts, spent, seconds)
    print_table(result)
    if args.out:
        write_json(args.out / "result.json", result)
        write_texts(args.out, [r.id for r in recordings], texts)
    return 0
