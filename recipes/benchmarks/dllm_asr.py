"""Every way to turn the same encoder's output into text: CTC, the autoregressive twin, denoising and its ablations.

    python -m recipes.benchmark dllm_asr TABLE --out outputs/dllm_asr

Each recording is encoded once; then all systems decode it in turn, so they meet the same load of the machine. Times
are of one thread: "decoder" is what follows the encoder and the CTC head (the draft is charged to those that use it),
"end to end" includes features, encoder and head.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

FULL = "dllm"
# The paper's loop; the threshold of the draft and the number of passes suit the compact denoiser.
PAPER = {"search": "none", "threshold": 0.5, "blank_penalty": 0.0, "max_passes": 3}
MASK_CTC = {"search": "none", "threshold": 0.9, "blank_penalty": 0.0, "slots": False, "slack": 0.0, "slack_least": 0}
SYSTEMS: dict[str, dict] = {
    "ctc": {},
    "beam": {},
    "mask_ctc_1": {**MASK_CTC, "commit": "fixed:1", "max_passes": 1},
    "mask_ctc_5": {**MASK_CTC, "commit": "fixed:5", "max_passes": 5},
    "mask_ctc_10": {**MASK_CTC, "commit": "fixed:10", "max_passes": 10},
    "ar": {},
    "speculative": {},
    "fused": {},
    "rescored": {},
    "naive": {
        **PAPER, "prior": "none", "pruning": "none", "commit": "fixed:32", "early_exit": False, "max_passes": 32,
    },
    FULL: PAPER,
    "no_prior": {**PAPER, "prior": "none"},
    "no_pruning": {**PAPER, "pruning": "none"},
    "no_prior_no_pruning": {**PAPER, "prior": "none", "pruning": "none"},
    "no_early_exit": {**PAPER, "early_exit": False},
    "no_cache": {**PAPER, "speech_cache": False, "early_exit": False},
    "no_slots": {**PAPER, "slots": False},
    "eotp": {**PAPER, "pruning": "eotp"},
    "elastic": {**PAPER, "elastic": 0.9},
    "factor": {**PAPER, "commit": "factor:1"},
    "entropy": {**PAPER, "commit": "entropy:0.3"},
    "learned": {**PAPER, "commit": "learned"},
    "sequential": {**PAPER, "commit": "one", "max_passes": 400},
    "oracle_length": {**PAPER, "prior": "none"},
    "dllm_beam": {**PAPER, "prior": "beam"},
    "dllm_ngram": {"search": "ngram"},
}  # fmt: skip
BATCHED = ("ctc", "beam", "ar", FULL, "dllm_ngram")
DURATIONS = ((0, 5), (5, 10), (10, 1e9))  # seconds


@dataclass
class Measured:
    """What one system did on all recordings, in their order."""

    texts: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # of decoding
    passes: list[float] = field(default_factory=list)
    token_forwards: list[float] = field(default_factory=list)


def make_systems(recogniser, names: list[str], denoiser: str | None, twin: str | None) -> dict[str, Callable]:
    """Functions (heard, recording) -> token ids, passes and token-forwards of each utterance."""
    from asr.ctc.beam import best_path, prefix_beam
    from asr.text_decoders import DECODERS, load_decoder

    def ctc(heard, references):
        return [best_path(frames, recogniser.tokenizer).tokens for frames in heard.posteriors], None

    def beam(heard, references):
        found = (prefix_beam(f, recogniser.tokenizer, recogniser.beam, recogniser.lm)[0] for f in heard.posteriors)
        return [hypothesis.tokens for hypothesis in found], None

    def decoded(decoder):
        def run(heard, references):
            result = decoder(heard)
            return result.tokens, result

        return run

    def oracle(decoder):
        from asr.dllm.canvas import Canvas
        from asr.dllm.loop import MASK

        def run(heard, references):
            lengths = [len(recogniser.tokenizer.encode(text)) + 1 for text in references]
            decoder.canvas = lambda drafts, batch: Canvas.empty(lengths, MASK)
            result = decoder(heard)
            return result.tokens, result

        return run

    systems = {"ctc": ctc, "beam": beam}
    for name in names:
        if name in systems:
            continue
        kind = name if name in DECODERS else "dllm"
        model = denoiser if kind == "dllm" else twin
        decoder = load_decoder(
            kind, "cpu", model, recogniser.tokenizer, SYSTEMS[name], recogniser.beam, lambda: recogniser.lm
        )
        systems[name] = oracle(decoder) if name == "oracle_length" else decoded(decoder)
    return {name: systems[name] for name in names}


def run(recogniser, recordings: list, systems: dict[str, Callable], batch: int) -> tuple[dict[str, Measured], dict]:
    """Decode all recordings with all systems; also the seconds of speech and of encoding of each recording.

    With a batch of more than one, times are shared equally among its utterances; recordings are sorted by length.
    """
    import torch
    from tqdm import tqdm

    waves = [recording.wave() for recording in recordings]
    order = np.argsort([len(w) for w in waves]) if batch > 1 else np.arange(len(waves))
    measured = {name: Measured() for name in systems}
    shared = {"audio": [], "encoder": [], "order": order.tolist()}
    groups = [order[i : i + batch] for i in range(0, len(order), batch)]
    for number, group in enumerate(tqdm([groups[0], *groups], unit="batch", file=sys.stderr)):
        with torch.inference_mode():
            started = time.perf_counter()
            heard = recogniser.listen([waves[i] for i in group])
            encoding = time.perf_counter() - started
        texts = [recordings[i].text for i in group]
        if number:  # the first group is warm-up
            shared["audio"] += [len(waves[i]) / 16000 for i in group]
            shared["encoder"] += [encoding / len(group)] * len(group)
        for name, system in systems.items():
            started = time.perf_counter()
            tokens, details = system(heard, texts)
            seconds = time.perf_counter() - started
            if not number:
                continue
            result = measured[name]
            result.texts += [recogniser.tokenizer.decode(row) for row in tokens]
            result.seconds += [seconds / len(group)] * len(group)
            result.passes += details.passes.tolist() if details else [0] * len(group)
            result.token_forwards += details.token_forwards.tolist() if details else [0] * len(group)
    return measured, shared


def summarise(references: list[str], measured: dict[str, Measured], shared: dict) -> dict[str, dict]:
    """One row a system: error rates with intervals and differences, passes, speed by duration."""
    from asr.score import bootstrap_interval, error_counts, paired_bootstrap, whisper_normaliser
    from recipes.evaluation.word_changes import fixed_and_broken

    audio, encoder = np.array(shared["audio"]), np.array(shared["encoder"])
    counts = {name: error_counts(references, m.texts) for name, m in measured.items()}
    normalise = whisper_normaliser()[1]
    rows = {}
    for name, m in measured.items():
        decoder = np.array(m.seconds)
        factors = (decoder + encoder) / audio
        row = {
            "wer": counts[name].rate,
            "interval": bootstrap_interval(counts[name]),
            "wer_normalised": error_counts([normalise(r) for r in references], [normalise(t) for t in m.texts]).rate,
            "passes": float(np.mean(m.passes)),
            "token_forwards": float(np.mean(m.token_forwards)),
            "rtf_median": float(np.median(factors)),
            "rtf_p95": float(np.percentile(factors, 95)),
            "by_duration": {},
        }
        for other in ("ctc", "ar"):
            if other in counts and other != name:
                row[f"minus_{other}"] = paired_bootstrap(counts[other], counts[name])[:2]
        if "ctc" in measured and name != "ctc":
            fixed, broken, right = fixed_and_broken(references, measured["ctc"].texts, m.texts)
            words = sum(len(reference.split()) for reference in references)
            row["fixed"], row["broken"] = fixed / max(1, words - right), broken / max(1, right)
        for low, high in DURATIONS:
            chosen = (audio >= low) & (audio < high)
            if chosen.any():
                row["by_duration"][f"{low}-{high:.0f}" if high < 1e8 else f"{low}+"] = {
                    "utterances": int(chosen.sum()),
                    "decoder_ms": float(np.median(decoder[chosen]) * 1e3),
                    "end_to_end_ms": float(np.median((decoder + encoder)[chosen]) * 1e3),
                }
        rows[name] = row
    return rows


def print_table(rows: dict[str, dict]) -> None:
    """The rows as text; speed-ups are against the autoregressive twin, by duration."""
    spans = list(next(iter(rows.values()))["by_duration"])
    heads = ("WER", "95 % interval", "vs CTC", "vs AR", "fixed", "broken", "passes", "tokens", "RTF", "p95")
    widths = (7, 15, 15, 15, 6, 6, 6, 7, 7, 7)
    print(f"{'system':20s} " + " ".join(f"{head:>{width}s}" for head, width in zip(heads, widths, strict=True)))
    for name, row in rows.items():
        cells = [f"{row['wer']:.2%}", "{:.2%}-{:.2%}".format(*row["interval"])]
        for key in ("minus_ctc", "minus_ar"):
            cells.append("{:+.1%} to {:+.1%}".format(*row[key]) if key in row else "")
        cells += [f"{row[key]:.1%}" if key in row else "" for key in ("fixed", "broken")]
        cells += [f"{row['passes']:.2f}", f"{row['token_forwards']:.0f}"]
        cells += [f"{row['rtf_median']:.4f}", f"{row['rtf_p95']:.4f}"]
        print(f"{name:20s} " + " ".join(f"{cell:>{width}s}" for cell, width in zip(cells, widths, strict=True)))
    print("\nmilliseconds by duration in seconds: decoder, end to end (times faster than ar)")
    for name, row in rows.items():
        cells = []
        for span in spans:
            values, base = row["by_duration"][span], rows.get("ar", row)["by_duration"][span]
            cells.append(
                f"{span}: {values['decoder_ms']:.1f} ({base['decoder_ms'] / values['decoder_ms']:.2f}x), "
                f"{values['end_to_end_ms']:.1f} ({base['end_to_end_ms'] / values['end_to_end_ms']:.2f}x)"
            )
        print(f"{name:20s} " + "   ".join(cells))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.benchmark dllm_asr",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = parser.add_argument
    option("table", help="recordings with columns id, path, text")
    option("--systems", nargs="+", choices=list(SYSTEMS), default=[name for name in SYSTEMS if name != "learned"])
    option("--recogniser", default="compact", help="model whose encoder all share (default: %(default)s)")
    option("--denoiser", help="folder of the denoiser (default: the compact one)")
    option("--twin", help="folder of the autoregressive twin (default: the compact one)")
    option("--batch", type=int, nargs="+", default=[1, 8], help=f"batch sizes; beyond 1 only {', '.join(BATCHED)}")
    option("--limit", type=int, help="only so many recordings, spread over the table")
    option("--out", type=Path, help="folder for result.json and the hypotheses")
    args = parser.parse_args(argv)

    import torch

    from asr.audio.io import atomic_path
    from asr.loading import load_recogniser
    from recipes.data.corpora import read_table

    torch.set_num_threads(1)
    recordings = read_table(args.table)
    if args.limit:
        chosen = np.linspace(0, len(recordings) - 1, min(args.limit, len(recordings))).astype(int)
        recordings = [recordings[i] for i in chosen]
    recogniser, result = load_recogniser(args.recogniser, "cpu"), {}
    for batch in args.batch:
        names = [name for name in args.systems if batch == 1 or name in BATCHED]
        systems = make_systems(recogniser, names, args.denoiser, args.twin)
        measured, shared = run(recogniser, recordings, systems, batch)
        ordered = [recordings[i] for i in shared["order"]]
        rows = result[f"batch_{batch}"] = summarise([r.text for r in ordered], measured, shared)
        print(f"\nbatch {batch}, {len(recordings)} recordings")
        print_table(rows)
        if args.out and batch == args.batch[0]:
            for name, m in measured.items():
                lines = [f"{r.id}\t{text}" for r, text in zip(ordered, m.texts, strict=True)]
                with atomic_path(args.out / f"{name}.tsv") as partial:
                    partial.write_text("id\ttext\n" + "\n".join(lines) + "\n")
    if args.out:
        with atomic_path(args.out / "result.json") as partial:
            partial.write_text(json.dumps(result, indent=1))
    return 0
