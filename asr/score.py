"""Score hypotheses against references: word and character error rate with a bootstrap interval.

    python -m asr.score ref.tsv hyp.tsv
    python -m asr.score LibriSpeech/dev-clean transcripts/ --by_speaker --worst 10
    python -m asr.score ref.txt hyp.txt --json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np

from asr.console.program import complain, emit, json_text, printable, program, program_name
from asr.text.texts import pair, read_pair

EPILOG = """files: one text a line; "id text" (Kaldi, LibriSpeech) or "text (id)" (sclite .trn); "id<TAB>text"; a table
separated by tabs or commas whose header has "text" and "id" or "path"; JSON, an array or an object a line, with these
names or NeMo's; what asr.transcribe -f json writes; or a folder of .txt, .trn or .json files. What a file is taken for
is said on standard error. Utterances are paired by id (an audio path counts by its stem), by line where there are none.
A missing hypothesis counts as deleted, hypotheses without a reference are left out; both are reported."""

REMARKS = {
    "missing": "without a hypothesis (all words count as deleted)",
    "extra": "without a reference (left out)",
}


@dataclass(frozen=True)
class ErrorCounts:
    """Errors of a set of utterances; each field is an integer array [utterances]."""

    substitutions: np.ndarray
    insertions: np.ndarray
    deletions: np.ndarray
    reference: np.ndarray  # units (words or characters) in the references

    @property
    def errors(self) -> np.ndarray:
        return self.substitutions + self.insertions + self.deletions

    @property
    def rate(self) -> float:
        """Errors per reference unit, NaN when the references are empty."""
        return float(_ratio(self.errors.sum(), self.reference.sum()))

    def select(self, indices) -> ErrorCounts:
        return ErrorCounts(*(getattr(self, name)[indices] for name in self.__dataclass_fields__))


def error_counts(references: list[str], hypotheses: list[str], unit: str = "word") -> ErrorCounts:
    """Levenshtein errors of each utterance by jiwer; `unit` is "word" or "character".

    Raises:
        ValueError: the lists differ in length.
    """
    import jiwer

    if len(references) != len(hypotheses):
        raise ValueError(f"{len(references)} references and {len(hypotheses)} hypotheses cannot be paired")
    process = {"word": jiwer.process_words, "character": jiwer.process_characters}[unit]
    counts = {"substitute": [], "insert": [], "delete": [], "equal": []}
    alignments = process(references, hypotheses).alignments if references else []
    for chunks in alignments:
        for kind, column in counts.items():
            chosen = [chunk for chunk in chunks if chunk.type == kind]
            reference, hypothesis = (
                sum(getattr(c, f"{side}_end_idx") - getattr(c, f"{side}_start_idx") for c in chosen)
                for side in ("ref", "hyp")
            )
            column.append(max(reference, hypothesis))
    substitutions, insertions, deletions, hits = (np.array(column, dtype=int) for column in counts.values())
    return ErrorCounts(substitutions, insertions, deletions, hits + substitutions + deletions)


def bootstrap_interval(
    counts: ErrorCounts, level: float = 0.95, samples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Interval of the error rate when utterances are drawn anew (Bisani & Ney 2004, Sec. 3)."""
    rates = _resampled_rates(counts, samples, seed)
    return _interval(rates, level)


def paired_bootstrap(
    first: ErrorCounts, second: ErrorCounts, level: float = 0.95, samples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """Compare two systems on the same utterances (Bisani & Ney 2004, Sec. 4).

    Returns:
        the interval of the second error rate minus the first, and the share of draws in which the second
        system has the lower rate (ties count half).

    Raises:
        ValueError: the references differ.
    """
    if not np.array_equal(first.reference, second.reference):
        raise ValueError("a paired bootstrap needs the same references, in the same order, for both systems")
    difference = _resampled_rates(second, samples, seed) - _resampled_rates(first, samples, seed)
    better = float(np.mean(difference < 0) + np.mean(difference == 0) / 2)
    return *_interval(difference, level), better


def _resampled_rates(counts: ErrorCounts, samples: int, seed: int) -> np.ndarray:
    utterances = len(counts.reference)
    if not utterances:
        return np.full(samples, np.nan)
    even = np.full(utterances, 1 / utterances)
    draws = np.random.default_rng(seed).multinomial(utterances, even, size=samples)
    return _ratio(draws @ counts.errors, draws @ counts.reference)


def _interval(values: np.ndarray, level: float) -> tuple[float, float]:
    defined = values[np.isfinite(values)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _ratio(errors, reference):
    undefined = np.full(np.shape(errors), np.nan)
    return np.divide(errors, reference, out=undefined, where=np.asarray(reference) > 0)


@cache
def whisper_normaliser() -> tuple[str, Callable[[str], str]]:
    """Name and function of Whisper's English normaliser (Radford et al. 2022, App. C), as in transformers.

    Its table of British spellings is part of Whisper's checkpoints, not of transformers, and is left out.
    """
    import transformers
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    version = transformers.__version__
    name = f"Whisper English (transformers {version}, without the table of British spellings)"
    return name, EnglishTextNormalizer({})


def normalised(texts: Iterable[str]) -> list[str]:
    """Texts by Whisper's English normaliser, as word error rates compare them."""
    return list(map(whisper_normaliser()[1], texts))


def report(
    references: dict[str, str], hypotheses: dict[str, str], by_speaker: bool = False, worst: int = 0
) -> dict:
    """Everything the command line prints, as plain values; rates are fractions, null where undefined."""
    missing, extra = pair(references, hypotheses)
    ids = list(references)
    name, _ = whisper_normaliser()
    raw = [references[id] for id in ids], [hypotheses.get(id, "") for id in ids]
    said, heard = map(normalised, raw)
    result = {
        "utterances": len(ids), "missing": missing, "extra": extra,
        "scores": [_score("none", *raw), _score(name, said, heard)],
    }
    counts = error_counts(said, heard)
    if by_speaker:
        result["speakers"] = _speakers(ids, error_counts(*raw), counts)
    order = sorted(range(len(ids)), key=lambda i: -counts.errors[i])
    result["worst"] = [
        {"id": ids[i], "errors": int(counts.errors[i]), "alignment": _alignment(said[i], heard[i])}
        for i in order[:worst]
        if counts.errors[i]
    ]
    return result


def _score(normaliser: str, references: list[str], hypotheses: list[str]) -> dict:
    words = error_counts(references, hypotheses)
    return {
        "normaliser": normaliser,
        "wer": _plain(words.rate),
        "interval": [_plain(value) for value in bootstrap_interval(words)],
        "words": int(words.reference.sum()),
        "substitutions": int(words.substitutions.sum()),
        "insertions": int(words.insertions.sum()),
        "deletions": int(words.deletions.sum()),
        "cer": _plain(error_counts(references, hypotheses, unit="character").rate),
    }


def _speakers(ids: list[str], raw: ErrorCounts, normalised: ErrorCounts) -> dict[str, dict]:
    groups: dict[str, list[int]] = {}
    for index, id in enumerate(ids):
        groups.setdefault(id.split("-")[0], []).append(index)
    return {
        speaker: {
            "utterances": len(members),
            "words": int(raw.reference[members].sum()),
            "wer": _plain(raw.select(members).rate),
            "wer_normalised": _plain(normalised.select(members).rate),
        }
        for speaker, members in sorted(groups.items())
    }


def _alignment(reference: str, hypothesis: str) -> str:
    import jiwer

    output = jiwer.process_words(reference, hypothesis)
    shown = jiwer.visualize_alignment(output, show_measures=False, skip_correct=False)
    return shown.split("\n\n", 1)[-1].strip("\n")  # without the title


def _plain(value: float) -> float | None:
    return None if value != value else value


def _as_text(result: dict) -> str:
    lines = [f"{result['utterances']} utterances, {result['scores'][0]['words']} reference words"]
    for score in result["scores"]:
        low, high = map(_percent, score["interval"])
        lines += [
            f"\nnormaliser: {score['normaliser']}",
            f"  WER {_percent(score['wer'])} (95 % bootstrap interval {low} to {high})",
            f"  {score['substitutions']} substitutions, {score['insertions']} insertions, "
            f"{score['deletions']} deletions in {score['words']} words",
            f"  CER {_percent(score['cer'])}",
        ]
    if speakers := result.get("speakers"):
        width = max(7, *map(len, speakers))
        lines.append(f"\n{'speaker':{width}}  utterances   words   WER raw   WER normalised")
        for speaker, row in speakers.items():
            rates = f"{_percent(row['wer']):>8}  {_percent(row['wer_normalised']):>15}"
            lines.append(f"{speaker:{width}}  {row['utterances']:10}  {row['words']:6}  {rates}")
    for utterance in result["worst"]:
        lines.append(f"\n{utterance['id']}: {utterance['errors']} errors\n{utterance['alignment']}")
    return "\n".join(lines) + "\n"


def _percent(rate: float | None) -> str:
    return "undefined" if rate is None else f"{100 * rate:.2f} %"


@program
def main(argv: list[str] | None = None) -> int:
    """Run the program with its arguments; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog=program_name("asr.score"), description="Word and character error rate, raw and normalised.",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("reference", help="what was said")
    parser.add_argument("hypothesis", help="what was recognised")
    option = parser.add_argument
    option("--worst", type=int, default=3, metavar="N", help="align the N worst utterances (default: 3)")
    option("--by_speaker", action="store_true", help="group by what stands before the first - of the id")
    option("--json", action="store_true", help="print everything as one JSON object")
    args = parser.parse_args(argv)
    try:
        references, hypotheses = read_pair(args.reference, args.hypothesis)
        for path, texts in ((args.reference, references), (args.hypothesis, hypotheses)):
            complain(f"{path}: {texts.layout}")
        result = report(references, hypotheses, args.by_speaker, args.worst)
    except ValueError as error:
        parser.error(printable(str(error)))
    for kind, remark in REMARKS.items():
        if ids := result[kind]:
            complain(f"{len(ids)} {remark}: {', '.join(ids[:5])}{' ...' if len(ids) > 5 else ''}")
    emit(json_text(result, indent=2) if args.json else _as_text(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
