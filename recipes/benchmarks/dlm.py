"""The table of the correction model: what it makes of our recogniser's output, beside an n-gram and a language model.

    python -m recipes.benchmark dlm TABLE --dlm RUNS/dlm_compact/model --lm RUNS/lm_compact/model --out outputs/dlm
    python -m recipes.benchmark dlm TABLE --hypotheses pocketsphinx.tsv      # and another recogniser's output

The recogniser hears every recording once; everything else works on its log-probabilities. Weights are chosen on every
second speaker; rates are given for the other speakers and for all.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

DLM_SCALES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5)
LM_SCALES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
NGRAM_SCALES = (0.0, 0.2, 0.35, 0.5, 0.7, 0.85, 1.0)
BONUSES = (-1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 6.0)
MARGINS = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, float("inf"))
CTC_SCALES = (0.0, 0.5, 1.0)


@dataclass
class Heard:
    """One recording: what the recogniser made of it, and candidates with their log-probabilities by kind of score."""

    reference: str
    speaker: str
    log_probabilities: object  # [frames, vocabulary]
    greedy: str
    confidence: float  # mean log-probability of the best path's frames
    lists: dict[str, list[str]] = field(default_factory=dict)  # best first
    candidates: dict[str, dict[str, float]] = field(default_factory=dict)


def hear(recogniser, recordings: list, beam_size: int) -> list[Heard]:
    """Greedy output and n-best lists without and with n-gram fusion."""
    from dataclasses import replace

    import torch
    from tqdm import tqdm

    from asr.ctc.beam import BeamOptions, greedy, prefix_beam

    plain = BeamOptions(beam_size=beam_size, lm_weight=0.0, token_bonus=0.0)
    heard = []
    for recording in tqdm(recordings, desc="recognise", unit="file", file=sys.stderr):
        with torch.inference_mode():
            log_probabilities, lengths = recogniser.log_probabilities([recording.wave()])
        best = greedy(log_probabilities, lengths, recogniser.tokenizer)[0]
        frames = log_probabilities[0, : lengths[0]].clone()
        item = Heard(recording.text, recording.speaker, frames, best.text, best.score / len(frames))
        item.lists["beam"] = _texts(prefix_beam(frames, recogniser.tokenizer, plain))
        if recogniser.lm is not None:
            fused = replace(recogniser.beam, beam_size=beam_size)
            item.lists["fusion"] = _texts(prefix_beam(frames, recogniser.tokenizer, fused, recogniser.lm))
        heard.append(item)
    return heard


def _texts(hypotheses: list) -> list[str]:
    return list(dict.fromkeys(h.text for h in hypotheses))


def score_candidates(heard: list[Heard], recogniser, dlm, lm, beam_size: int) -> None:
    """Write the DLM's beams from greedy output, and score every candidate by audio, n-gram, LM and DLM."""
    from tqdm import tqdm

    from asr.ar.rescoring import TextScorer
    from dlm.decoding import SearchOptions, score_texts, search

    for item in tqdm(heard, desc="score", unit="file", file=sys.stderr):
        item.lists["dlm"] = [s.text for s in search(dlm, [item.greedy], options=SearchOptions(beam_size=beam_size))]
        texts = list(dict.fromkeys([item.greedy, *itertools.chain(*item.lists.values())]))
        scorer = TextScorer(item.log_probabilities, recogniser.tokenizer, lambda: recogniser.lm)
        columns = {
            "asr": scorer(texts),
            "dlm": score_texts(dlm, [item.greedy] * len(texts), texts),
            "words": [len(text.split()) for text in texts],
        }
        if recogniser.lm is not None:
            columns["ngram"] = scorer.language(texts)
        if lm is not None:
            columns["lm"] = score_texts(lm, texts, texts)
        item.candidates = {
            text: dict(zip(columns, values, strict=True))
            for text, values in zip(texts, zip(*columns.values(), strict=True), strict=True)
        }


@dataclass(frozen=True)
class Rescoring:
    """Choice among the candidates of some lists by log p(text | audio) and weighted other scores.

    The greedy hypothesis is always a candidate, and weight 0 is in every grid.
    """

    lists: tuple[str, ...]
    grids: dict[str, tuple[float, ...]]  # by kind of score

    def tune(self, heard: list[Heard]) -> dict[str, float]:
        """The weights with the fewest word errors; the smallest ones where several have as few."""
        tables = [self._table(item) for item in heard]
        best, chosen = None, {}
        for weights in itertools.product(*self.grids.values()):
            errors = sum(int(errors[np.argmax(scores @ (1.0, *weights))]) for scores, errors in tables)
            key = (errors, sum(map(abs, weights)))
            if best is None or key < best:
                best, chosen = key, dict(zip(self.grids, weights, strict=True))
        return chosen

    def apply(self, heard: list[Heard], weights: dict[str, float]) -> list[str]:
        chosen = []
        for item in heard:
            texts = self.texts(item)
            scores = self._scores(item, texts) @ (1.0, *(weights[kind] for kind in self.grids))
            chosen.append(texts[int(np.argmax(scores))])
        return chosen

    def texts(self, item: Heard) -> list[str]:
        return list(dict.fromkeys([item.greedy, *itertools.chain(*(item.lists[name] for name in self.lists))]))

    def oracle(self, heard: list[Heard]) -> float:
        """WER of the best candidate of each recording."""
        errors = sum(int(word_errors(item.reference, self.texts(item)).min()) for item in heard)
        return errors / sum(len(item.reference.split()) for item in heard)

    def _table(self, item: Heard) -> tuple[np.ndarray, np.ndarray]:
        """Scores [candidates, kinds] and word errors [candidates] of one recording."""
        texts = self.texts(item)
        return self._scores(item, texts), word_errors(item.reference, texts)

    def _scores(self, item: Heard, texts: list[str]) -> np.ndarray:
        kinds = ("asr", *self.grids)
        return np.maximum(np.array([[item.candidates[t][kind] for kind in kinds] for t in texts], float), -1e9)


def word_errors(reference: str, hypotheses: list[str]) -> np.ndarray:
    """Word-level Levenshtein distance of each hypothesis."""
    from rapidfuzz.distance import Levenshtein

    return np.array([Levenshtein.distance(reference.split(), text.split()) for text in hypotheses])


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
    from asr.score import bootstrap_interval, error_counts, paired_bootstrap
    from recipes.evaluation.word_changes import fixed_and_broken

    counts = {name: error_counts(references, texts) for name, texts in systems.items()}
    first, result = next(iter(systems)), {}
    for name, texts in systems.items():
        fixed, broken, _ = fixed_and_broken(references, systems[first], texts)
        row = {
            "wer": counts[name].rate,
            "interval": bootstrap_interval(counts[name]),
            "wer_held_out": counts[name].select(held_out).rate,
            "cer": error_counts(references, texts, "character").rate,
            "fixed": fixed,
            "broken": broken,
        }
        for rival in {first, "n-gram fusion"} & set(systems) - {name}:
            row[f"minus {rival}"] = paired_bootstrap(counts[rival], counts[name])
            held = [c.select(held_out) for c in (counts[rival], counts[name])]
            row[f"minus {rival}, held out"] = paired_bootstrap(*held)
        if confidence is not None:
            thirds = np.array_split(np.argsort(confidence), 3)
            row["by_confidence"] = [counts[name].select(third).rate for third in thirds]
        result[name] = row
    return result


def print_table(title: str, result: dict) -> None:
    print(f"\n{title}")
    print(f"{'system':20s} {'WER':>7s} {'95 % interval':>15s} {'held out':>9s} {'CER':>7s} {'fixed':>6s} {'broken':>6s}"
          "  WER by confidence: low, middle, high")  # fmt: skip
    for name, row in result.items():
        low, high = row["interval"]
        thirds = " ".join(f"{rate:7.2%}" for rate in row.get("by_confidence", []))
        print(
            f"{name:20s} {row['wer']:7.2%} {low:7.2%}-{high:7.2%} {row['wer_held_out']:9.2%} {row['cer']:7.2%} "
            f"{row['fixed']:6d} {row['broken']:6d}  {thirds}"
        )
    for name, row in result.items():
        for key in sorted(key for key in row if key.startswith("minus")):
            low, high, _ = row[key]
            print(f"{name} {key}: {low:+.2%} to {high:+.2%} (95 %, paired bootstrap)")


def run(args: argparse.Namespace) -> dict:
    """Everything the program prints, as plain values."""
    from asr.loading import load_recogniser
    from dlm import DenoisingLM
    from dlm.decoding import greedy
    from recipes.data.corpora import read_table

    recogniser, recordings = load_recogniser(args.model, "cpu"), read_table(args.table)
    recordings = recordings[:: max(1, len(recordings) // (args.limit or len(recordings)))]
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
    from asr.audio.io import atomic_path

    config = json.loads((folder / "config.json").read_text())
    chosen = weights.get("DSR + n-gram", weights["DSR"])
    config["correction"] = {
        "scale": chosen["dlm"],
        "ngram_scale": chosen.get("ngram", 0.0),
        "bonus": chosen["words"],
        "margin": min(weights["DLM guarded"]["margin"], 1e9),
    }
    with atomic_path(folder / "config.json") as partial:
        partial.write_text(json.dumps(config, indent=2) + "\n")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.benchmark dlm",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = parser.add_argument
    option("table", help="held-out recordings with columns id, path, speaker, text")
    option("--model", default="compact", help="the recogniser: a name, folder or Hub id (default: %(default)s)")
    option("--dlm", type=Path, help="folder of the correction model (default: the compact model)")
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

    from asr.audio.io import atomic_path
    from dlm.model import COMPACT

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
    for path, table in result.get("others", {}).items():
        print_table(f"hypotheses of {path}, without audio", table)
    if args.out:
        with atomic_path(args.out / "result.json") as partial:
            partial.write_text(json.dumps(result, indent=1))
    if args.write_options:
        write_options(args.dlm or COMPACT, result["weights"])
    return 0
