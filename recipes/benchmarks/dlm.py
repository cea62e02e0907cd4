"""The table of the correction model: what it makes of our recogniser's output, beside an n-gram and a language model.

    python -m recipes.benchmark dlm TABLE --dlm RUNS/dlm_compact/model --lm RUNS/lm_compact/model --out outputs/dlm
    python -m recipes.benchmark dlm TABLE --hypotheses pocketsphinx.tsv      # and another recogniser's output

The recogniser hears every recording once; everything else works on its log-probabilities. Weights are chosen on every
second speaker; rates are given for the other speakers and for all.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from asr.console.program import program
from recipes.evaluation.rescoring import Heard, Rescoring, hear, score_candidates, word_errors
from recipes.evaluation.side_by_side import (
    difference_lines,
    error_rows,
    make_parser,
    span,
    spread,
    table,
    write_json,
)
from recipes.evaluation.word_changes import fixed_and_broken

DLM_SCALES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5)
LM_SCALES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
NGRAM_SCALES = (0.0, 0.2, 0.35, 0.5, 0.7, 0.85, 1.0)
BONUSES = (-1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 6.0)
MARGINS = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, float("inf"))
CTC_SCALES = (0.0, 0.5, 1.0)


# -- systems -----------------------------------------------------------------------------------------------


def rescorings(has_ngram: bool, has_lm: bool) -> dict[str, Rescoring]:
    """Rescoring systems of the table, by name."""
    asr = ("beam", "fusion") if has_ngram else ("beam",)
    ngram = {"ngram": NGRAM_SCALES} if has_ngram else {}
    systems = {}
    if has_ngram:
        systems["n-gram rescoring"] = Rescoring(asr, {**ngram, "words": BONUSES})
    if has_lm:
        systems["LM rescoring"] = Rescoring(asr, {"lm": LM_SCALES, "words": BONUSES})
    systems["DSR"] = Rescoring((*asr, "dlm"), {"dlm": DLM_SCALES, "words": BONUSES})
    if has_ngram and has_lm:
        systems["LM + n-gram"] = Rescoring(asr, {"lm": LM_SCALES, **ngram, "words": BONUSES})
    if has_ngram:
        systems["DSR + n-gram"] = Rescoring((*asr, "dlm"), {"dlm": DLM_SCALES, **ngram, "words": BONUSES})
    return systems


def dlm_sum(heard: list[Heard], dlm, recogniser, count: int, scale: float, beam_size: int) -> list[str]:
    """DLM-sum over the `count` best hypotheses of the beam without a language model, and the audio's prefix score."""
    from tqdm import tqdm

    from asr.ar.rescoring import CTCPrefixScorer, TextScorer
    from dlm.decoding import SearchOptions, search

    options = SearchOptions(beam_size=beam_size, ctc_scale=scale)
    texts = []
    for item in tqdm(heard, desc=f"DLM-sum {scale}", unit="file", file=sys.stderr):
        hypotheses = list(dict.fromkeys([item.greedy, *item.lists["beam"]]))[:count]
        weights = TextScorer(item.log_probabilities, recogniser.tokenizer)(hypotheses)
        ctc = CTCPrefixScorer(item.log_probabilities, recogniser.tokenizer.blank_id, recogniser.tokenizer.end_id)
        texts.append(search(dlm, hypotheses, weights, options, ctc if scale else None)[0].text)
    return texts


def tune_margin(dlm, before: list[str], references: list[str], tuning: list[int]) -> tuple[float, dict]:
    """The margin of the guard without audio, on the tuning recordings' hypotheses, and what it does to references.

    At most 1 % of the words of the references may change; among the margins that keep this the one with the fewest
    errors is taken, the largest of several.
    """
    from dlm import CorrectionOptions, Corrector

    corrector = Corrector(dlm, CorrectionOptions(margin=-float("inf"), longest=100_000))
    mended, kept = corrector.correct([before[i] for i in tuning]), corrector.correct(references)

    def at(margin: float, corrections: list) -> list[str]:
        return [c.text if c.gain > margin else c.hypothesis for c in corrections]

    outcomes = {}
    for margin in MARGINS:
        pairs = zip(tuning, at(margin, mended), strict=True)
        errors = sum(int(word_errors(references[i], [text])[0]) for i, text in pairs)
        outcomes[margin] = (errors, changed_words(references, at(margin, kept)))
    allowed = [margin for margin in MARGINS if outcomes[margin][1] <= 0.01]
    best = min(allowed, key=lambda margin: (outcomes[margin][0], -margin))
    return best, {"margin": best, "references_changed": outcomes[best][1]}


def changed_words(references: list[str], texts: list[str]) -> float:
    """Share of the words of correct texts that a corrector changes."""
    changed = sum(int(word_errors(r, [t])[0]) for r, t in zip(references, texts, strict=True))
    return changed / sum(len(r.split()) for r in references)


# -- the table ---------------------------------------------------------------------------------------------


def summarise(
    references: list[str], systems: dict[str, list[str]], held_out: list[int], confidence: np.ndarray | None = None
) -> dict:
    """Rates of each system with intervals, differences to the first system and to fusion, by confidence."""
    from asr.score import error_counts

    first = next(iter(systems))
    rivals = (first, "n-gram fusion")

    def chosen(texts: list[str], rows) -> list[str]:
        return [texts[i] for i in rows]

    result = error_rows(references, systems, rivals)
    held = {name: chosen(texts, held_out) for name, texts in systems.items()}
    for name, row in error_rows(chosen(references, held_out), held, rivals).items():
        result[name] |= {"wer_held_out": row["wer"], "held_out_minus": row["minus"]}
    for name, texts in systems.items():
        result[name]["fixed"], result[name]["broken"], _ = fixed_and_broken(references, systems[first], texts)
        if confidence is not None:
            counts, thirds = error_counts(references, texts), np.array_split(np.argsort(confidence), 3)
            result[name]["by_confidence"] = [counts.select(third).rate for third in thirds]
    return result


def print_table(title: str, result: dict) -> None:
    heads = ("system", "WER", "95 % interval", "held out", "CER", "fixed", "broken", "by confidence: low, middle, high")
    rows = [
        [
            name, f"{row['wer']:.2%}", span(row["interval"]), f"{row['wer_held_out']:.2%}", f"{row['cer']:.2%}",
            str(row["fixed"]), str(row["broken"]), " ".join(f"{rate:7.2%}" for rate in row.get("by_confidence", [])),
        ]
        for name, row in result.items()
    ]  # fmt: skip
    print(f"\n{title}")
    print(table(heads, rows))
    print("\n".join(difference_lines(result) + difference_lines(result, "held_out_minus")))


def run(args: argparse.Namespace) -> dict:
    """Everything the program prints, as plain values."""
    from asr.loading import load_recogniser
    from dlm import DenoisingLM
    from dlm.decoding import greedy
    from recipes.data.corpora import read_table

    recogniser, recordings = load_recogniser(args.model, "cpu"), read_table(args.table)
    recordings = spread(recordings, args.limit)
    dlm = DenoisingLM.from_pretrained(args.dlm).eval()
    lm = DenoisingLM.from_pretrained(args.lm).eval() if args.lm else None
    heard = hear(recogniser, recordings, args.beam_size)
    score_candidates(heard, recogniser, dlm, lm, args.dlm_beam_size)
    references, before = [item.reference for item in heard], [item.greedy for item in heard]
    speakers = sorted({item.speaker for item in heard})
    tuning = [i for i, item in enumerate(heard) if item.speaker in speakers[::2]]
    held_out = [i for i in range(len(heard)) if i not in set(tuning)] or tuning

    systems = {"greedy": before, "CTC beam": [item.lists["beam"][0] for item in heard]}
    if recogniser.lm is not None:
        systems["n-gram fusion"] = [item.lists["fusion"][0] for item in heard]
    margin, guard = tune_margin(dlm, before, references, tuning)
    systems["DLM greedy"] = [scored.text for scored in greedy(dlm, before)]
    systems["DLM guarded"] = guarded(dlm, before, margin)
    weights, oracles = {"DLM guarded": guard}, {}
    for name, rescoring in rescorings(recogniser.lm is not None, lm is not None).items():
        weights[name] = rescoring.tune([heard[i] for i in tuning])
        systems[name] = rescoring.apply(heard, weights[name])
        oracles[" + ".join(("greedy", *rescoring.lists))] = rescoring.oracle(heard)
    systems["DLM-sum"], weights["DLM-sum"] = tuned_sum(heard, tuning, dlm, recogniser, args)
    for name in ("beam", "fusion", "dlm"):
        if name in heard[0].lists:
            oracles[f"greedy + {name}"] = Rescoring((name,), {}).oracle(heard)
    confidence = np.array([item.confidence for item in heard])
    result = {
        "recordings": len(heard),
        "tuning_speakers": speakers[::2],
        "systems": summarise(references, systems, held_out, confidence),
        "weights": weights,
        "oracle_wer": oracles,
        "texts": systems,
    }
    for path in args.hypotheses:
        result.setdefault("others", {})[str(path)] = other_recogniser(path, recordings, dlm, margin, held_out)
    return result


def tuned_sum(heard: list[Heard], tuning: list[int], dlm, recogniser, args) -> tuple[list[str], dict]:
    """DLM-sum with the audio's scale that has the fewest errors on the tuning recordings."""
    outputs = {
        scale: dlm_sum(heard, dlm, recogniser, args.sum_hypotheses, scale, args.dlm_beam_size)
        for scale in (CTC_SCALES if dlm.units.definition == recogniser.tokenizer.definition else (0.0,))
    }

    def errors(scale: float) -> int:
        return sum(int(word_errors(heard[i].reference, [outputs[scale][i]])[0]) for i in tuning)

    best = min(outputs, key=errors)
    return outputs[best], {"ctc_scale": best, "hypotheses": args.sum_hypotheses}


def guarded(dlm, texts: list[str], margin: float) -> list[str]:
    """Corrections without audio, under the margin."""
    from dlm import CorrectionOptions, Corrector

    return [c.text for c in Corrector(dlm, CorrectionOptions(margin=margin, longest=100_000)).correct(texts)]


def other_recogniser(path: Path, recordings: list, dlm, margin: float, held_out: list[int]) -> dict:
    """The table of text-only correction of another recogniser's hypotheses; a missing one counts as empty."""
    from asr.text.texts import read_texts
    from dlm.decoding import greedy

    hypotheses = read_texts(path)
    before = [hypotheses.get(recording.id, "") for recording in recordings]
    written = [scored.text for scored in greedy(dlm, before)]
    systems = {"as recognised": before, "DLM greedy": written, "DLM guarded": guarded(dlm, before, margin)}
    return summarise([recording.text for recording in recordings], systems, held_out)


def write_options(folder: Path, weights: dict) -> None:
    """Put the tuned scale, bonus and margin into the correction model's config.json."""
    config = json.loads((folder / "config.json").read_text())
    chosen = weights.get("DSR + n-gram", weights["DSR"])
    config["correction"] = {
        "scale": chosen["dlm"],
        "ngram_scale": chosen.get("ngram", 0.0),
        "bonus": chosen["words"],
        "margin": min(weights["DLM guarded"]["margin"], 1e9),
    }
    write_json(folder / "config.json", config)


@program
def main(argv: list[str] | None = None) -> int:
    parser = make_parser("dlm", __doc__)
    option = parser.add_argument
    option("table", help="held-out recordings with columns id, path, speaker, text")
    option("--model", default="tiny", help="the recogniser: a name, folder or Hub id (default: %(default)s)")
    option("--dlm", type=Path, required=True, help="folder of the correction model")
    option("--lm", type=Path, help="folder of the language model of the same size")
    option("--hypotheses", type=Path, nargs="+", default=[], help="texts by id of other recognisers to correct")
    option("--beam_size", type=int, default=16, help="prefixes of the recogniser's beam (default: %(default)s)")
    option("--dlm_beam_size", type=int, default=8, help="texts of the correction model's (default: %(default)s)")
    option("--sum_hypotheses", type=int, default=4, help="K of DLM-sum (default: %(default)s)")
    option("--limit", type=int, help="use only so many recordings, spread evenly")
    option("--write_options", action="store_true", help="put the tuned weights into the correction model's config.json")
    option("--out", type=Path, help="folder for result.json")
    args = parser.parse_args(argv)

    import torch

    torch.set_num_threads(1)
    try:
        result = run(args)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print_table(
        f"{result['recordings']} recordings; weights from speakers {result['tuning_speakers']}", result["systems"]
    )
    print("\nweights: " + json.dumps(result["weights"]))
    print("oracle WER: " + ", ".join(f"{name} {rate:.2%}" for name, rate in result["oracle_wer"].items()))
    for path, rows in result.get("others", {}).items():
        print_table(f"hypotheses of {path}, without audio", rows)
    if args.out:
        write_json(args.out / "result.json", result)
    if args.write_options:
        write_options(args.dlm, result["weights"])
    return 0
