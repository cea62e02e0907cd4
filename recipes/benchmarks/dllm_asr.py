"""Every way to turn the same encoder's output into text: CTC, the autoregressive twin, denoising and its ablations.

    python -m recipes.benchmark dllm_asr TABLE --out outputs/dllm_asr
    python -m recipes.benchmark dllm_asr TABLE --systems ctc ar speculative dllm --curve commit threshold:{0.5,0.7,0.9}

Words are counted by Whisper's normaliser; result.json has `wer_raw` too. Each recording is encoded once; then all
systems decode it in turn, so they meet the same load of the machine. Times are of one thread: "decoder" is what follows
the encoder and the CTC head (the draft is charged to those that use it), "end to end" includes features, encoder and
head. --curve decodes with several values of one choice and draws error rate against the decoder's time, with the other
systems as points.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from asr.console.program import complain, program, reason
from recipes.evaluation.side_by_side import (
    error_rows,
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
from recipes.evaluation.word_changes import fixed_and_broken

FULL = "dllm"
PAPER = {"search": "none", "max_passes": 3}  # the paper's loop; what else there is to choose, the model brings
NO_SLOTS = {"slots": False, "layout": "order"}  # slots in time are empty ones
MASK_CTC = {"search": "none", "threshold": 0.9, "blank_penalty": 0.0, "slack": 0.0, "slack_least": 0, **NO_SLOTS}
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
    "no_slots": {**PAPER, **NO_SLOTS},
    "no_guesses": {**PAPER, "guesses": False},
    "slots_in_order": {**PAPER, "layout": "order"},
    "slots_in_time": {**PAPER, "layout": "time"},
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


def make_systems(
    recogniser,
    names: list[str] | None,
    denoiser: str | None,
    twin: str | None,
    choices: dict | None = None,
    curve: dict[str, dict] | None = None,
) -> dict[str, Callable]:
    """Functions (heard, references) -> texts, and passes and token-forwards of each utterance where there are any.

    Args:
        names: of `SYSTEMS`; None takes all that the model can do and says which it cannot.
        choices: of all denoising systems, beneath their own.
        curve: further systems that denoise, by name with their choices.

    Raises:
        ValueError: a named system is none that the model can do.
    """
    systems, refused, curve = {}, [], curve or {}
    for name in (*(names or SYSTEMS), *curve):
        own = {**(choices or {}), **curve.get(name, SYSTEMS.get(name, {}))}
        try:
            systems[name] = _system(recogniser, name, denoiser, twin, own)
        except ValueError as error:
            if names or name in curve:
                raise ValueError(f"system {name}: {error}") from None
            refused.append(f"{name} ({reason(error)})")
    if refused:
        complain("left out, since this model cannot: " + "; ".join(refused))
    return systems


def _system(recogniser, name: str, denoiser: str | None, twin: str | None, choices: dict) -> Callable:
    from asr.ctc.beam import best_path, prefix_beam
    from asr.decoders import DECODERS
    from asr.recogniser import DecodeOptions

    def ctc(heard, references):
        return [best_path(frames, recogniser.tokenizer).text for frames in heard.posteriors], None

    def beam(heard, references):
        found = (prefix_beam(f, recogniser.tokenizer, recogniser.beam, recogniser.lm)[0] for f in heard.posteriors)
        return [hypothesis.text for hypothesis in found], None

    if name in ("ctc", "beam"):
        return {"ctc": ctc, "beam": beam}[name]
    kind = name if name in DECODERS else "dllm"
    model, own = (denoiser, choices) if kind == "dllm" else (twin, {})
    decoder = recogniser.decoder(kind, DecodeOptions(kind, decoder_model=model, denoising=own))

    def decoded(heard, references):
        result = decoder(heard)
        return [decoder.vocabulary.decode(row) for row in result.tokens], result

    return _oracle(decoder, decoded) if name == "oracle_length" else decoded


def _oracle(decoder, decoded: Callable) -> Callable:
    """The same from canvases of masks that are as long as the references."""
    from asr.dllm.canvas import Canvas
    from asr.dllm.loop import MASK

    inner = getattr(decoder, "decoder", decoder)

    def with_lengths(heard, references):
        lengths = [len(decoder.vocabulary.encode(text)) + 1 for text in references]
        inner.canvas = lambda drafts, batch: Canvas.empty(lengths, MASK)
        try:
            return decoded(heard, references)
        finally:
            del inner.canvas  # "no_prior" shares the decoder

    return with_lengths


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
            heard, encoding = timed(lambda g=group: recogniser.listen([waves[i] for i in g]))
        texts = [recordings[i].text for i in group]
        if number:  # the first group is warm-up
            shared["audio"] += [len(waves[i]) / 16000 for i in group]
            shared["encoder"] += [encoding / len(group)] * len(group)
        for name, system in systems.items():
            (written, details), seconds = timed(lambda s=system, h=heard, x=texts: s(h, x))
            if not number:
                continue
            result = measured[name]
            result.texts += written
            result.seconds += [seconds / len(group)] * len(group)
            result.passes += details.passes.tolist() if details else [0] * len(group)
            result.token_forwards += details.token_forwards.tolist() if details else [0] * len(group)
    return measured, shared


def summarise(references: list[str], measured: dict[str, Measured], shared: dict) -> dict[str, dict]:
    """One row a system: normalised error rates with intervals and differences, passes, speed by duration."""
    from asr.score import error_counts, normalised

    audio, encoder = np.array(shared["audio"]), np.array(shared["encoder"])
    said, texts = normalised(references), {name: normalised(m.texts) for name, m in measured.items()}
    rows = error_rows(said, texts, ("ctc", "ar"))
    for name, m in measured.items():
        decoder, row = np.array(m.seconds), rows[name]
        row |= {
            "wer_raw": error_counts(references, m.texts).rate,
            "passes": float(np.mean(m.passes)),
            "token_forwards": float(np.mean(m.token_forwards)),
            **real_time(decoder + encoder, audio),
            "by_duration": {},
        }
        if "ctc" in measured and name != "ctc":
            fixed, broken, right = fixed_and_broken(said, texts["ctc"], texts[name])
            words = sum(len(reference.split()) for reference in said)
            row["fixed"], row["broken"] = fixed / max(1, words - right), broken / max(1, right)
        for low, high in DURATIONS:
            chosen = (audio >= low) & (audio < high)
            if chosen.any():
                row["by_duration"][f"{low}-{high:.0f}" if high < 1e8 else f"{low}+"] = {
                    "utterances": int(chosen.sum()),
                    "decoder_ms": float(np.median(decoder[chosen]) * 1e3),
                    "end_to_end_ms": float(np.median((decoder + encoder)[chosen]) * 1e3),
                }
    return rows


def print_table(rows: dict[str, dict]) -> None:
    """The rows as text; speed-ups are against the autoregressive twin, by duration."""
    spans = list(next(iter(rows.values()))["by_duration"])
    heads = ("system", "WER", "95 % interval", "vs CTC", "vs AR", "fixed", "broken", "passes", "tokens", "RTF", "p95")
    lines = []
    for name, row in rows.items():
        differences = [signed(row["minus"][rival]) if rival in row["minus"] else "" for rival in ("ctc", "ar")]
        changes = [f"{row[key]:.1%}" if key in row else "" for key in ("fixed", "broken")]
        work = [f"{row['passes']:.2f}", f"{row['token_forwards']:.0f}"]
        speed = [f"{row[key]:.4f}" for key in ("rtf_median", "rtf_p95")]
        lines.append([name, f"{row['wer']:.2%}", span(row["interval"]), *differences, *changes, *work, *speed])
    print(table(heads, lines))
    print("\nmilliseconds by duration in seconds: decoder, end to end (times faster than ar)")
    lines = []
    for name, row in rows.items():
        cells = []
        for seconds in spans:
            values, base = row["by_duration"][seconds], rows.get("ar", row)["by_duration"][seconds]
            for key in ("decoder_ms", "end_to_end_ms"):
                cells.append(f"{values[key]:.1f} ({base[key] / values[key]:.2f}x)")
        lines.append([name, *cells])
    print(table(("system", *(f"{s} {part}" for s in spans for part in ("decoder", "whole"))), lines))


@program
def main(argv: list[str] | None = None) -> int:
    parser = make_parser("dllm_asr", __doc__)
    option = parser.add_argument
    option("table", help="recordings with columns id, path, text")
    option("--systems", nargs="+", choices=list(SYSTEMS), help="default: all that the model can do")
    option("--recogniser", default="tiny", help="model whose encoder all share (default: %(default)s)")
    option("--denoiser", help="folder of the denoiser, of a recogniser that brings none")
    option("--twin", help="folder of the autoregressive twin, likewise")
    option("--denoising", nargs="+", metavar="KEY=VALUE", default=[], help="choices of all denoising systems, "
           "beneath their own (such as threshold=0.5 blank_penalty=0)")  # fmt: skip
    option("--curve", nargs="+", metavar=("KEY", "VALUE"), default=[], help="also denoise with each value of a choice, "
           "and draw curve.png with --out (commit threshold:0.5 threshold:0.9)")  # fmt: skip
    option("--batch", type=int, nargs="+", default=[1, 8], help=f"batch sizes; beyond 1 only {', '.join(BATCHED)}")
    option("--limit", type=int, help="only so many recordings, spread over the table")
    option("--out", type=Path, help="folder for result.json and the hypotheses")
    args = parser.parse_args(argv)

    import torch

    from asr.dllm.choices import parse_choices
    from asr.loading import load_recogniser
    from recipes.data.corpora import read_table
    from recipes.evaluation.scatter import draw_curve

    torch.set_num_threads(1)
    recordings = spread(read_table(args.table), args.limit)
    try:
        choices = parse_choices(args.denoising)
        key, *values = args.curve or [""]
        curve = {f"{key} {value}": {**PAPER, **parse_choices([f"{key}={value}"])} for value in values}
        recogniser, result = load_recogniser(args.recogniser, "cpu"), {}
        systems = make_systems(recogniser, args.systems, args.denoiser, args.twin, choices, curve)
    except ValueError as error:
        parser.error(reason(error))
    for batch in args.batch:
        chosen = {name: system for name, system in systems.items() if batch == 1 or name in BATCHED}
        measured, shared = run(recogniser, recordings, chosen, batch)
        ordered = [recordings[i] for i in shared["order"]]
        rows = result[f"batch_{batch}"] = summarise([r.text for r in ordered], measured, shared)
        print(f"\nbatch {batch}, {len(recordings)} recordings")
        print_table(rows)
        if args.out and batch == args.batch[0]:
            write_texts(args.out, [r.id for r in ordered], {name: m.texts for name, m in measured.items()})
            seconds = list(next(iter(rows.values()))["by_duration"])[-1]
            places = {n: (r["by_duration"][seconds]["decoder_ms"], r["wer"]) for n, r in rows.items()}
            draw_curve(args.out / "curve.png", places, list(curve), f"decoder, ms, recordings of {seconds} s")
    if args.out:
        write_json(args.out / "result.json", result)
    return 0
