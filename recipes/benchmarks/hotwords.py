"""Names to expect: how many rare words are found with and without `--hotwords`, and what it costs the other words.

    python -m recipes.benchmark hotwords dev.tsv --text books.txt.xz modern.txt.xz
    python -m recipes.benchmark hotwords dev.tsv --text books.txt.xz --systems ar beam faster-whisper:tiny.en \\
        --strengths 0 1 2 3 --distractors 0 100 --model outputs/hybrid_tiny/model --out outputs/hotwords

A word is rare if it occurs at most --rare times in the text. Each recording is given the rare words of its reference,
and with them as many distractors, drawn from the rare words of all other recordings and of the text (Le et al. 2021,
arXiv 2104.02194, Sec. 3.1). Recordings without rare words get the distractors only. Strength 0 is without hotwords;
a system that has no strengths of its own has `on`.
"""

from __future__ import annotations

import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from asr.console.program import program
from recipes.evaluation.side_by_side import error_rows, make_parser, span, spread, table, write_json, write_texts

OWN = ("ar", "beam")
SEED = 0
ODD = re.compile(r"[A-Za-z]{4,}")  # what is drawn from the text as a distractor


@dataclass
class Words:
    """Words of a large text by their lower-case form."""

    counts: Counter[str] = field(default_factory=Counter)
    forms: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    @classmethod
    def of(cls, sentences: Iterable[str]) -> Words:
        written = Counter(word for sentence in sentences for word in re.findall(r"[A-Za-z']+", sentence))
        words = cls()
        for word, count in written.items():
            words.counts[word.lower()] += count
            words.forms[word.lower()][word] += count
        return words

    def as_written(self, word: str) -> str:
        """How the text mostly writes it; a word that it does not have is taken for a name."""
        return self.forms[word].most_common(1)[0][0] if word in self.forms else word.capitalize()


@dataclass(frozen=True)
class Arm:
    """One row: a system, how strongly names count (None: by its own), and how many distractors there are."""

    system: str
    strength: float | None
    distractors: int

    @property
    def label(self) -> str:
        strength = "on" if self.strength is None else f"{self.strength:g}"
        return f"{self.system} {strength}" + (f" +{self.distractors}" if self.distractors and strength != "0" else "")


def rare_words(text: str, words: Words, most: int) -> list[str]:
    return list(dict.fromkeys(word for word in text.split() if words.counts[word] <= most))


def distractors(words: Words, known: Iterable[str], most: int) -> list[str]:
    """Rare words of the recordings and of the text, in a drawn order."""
    drawn = sorted({w for w in words.counts if words.counts[w] <= most and ODD.fullmatch(w)} | set(known))
    return [drawn[i] for i in np.random.default_rng(SEED).permutation(len(drawn))]


def lists(texts: list[str], words: Words, most: int, count: int) -> list[tuple[list[str], list[str]]]:
    """For each reference its own rare words and the distractors it is given, in lower case."""
    own = [rare_words(text, words, most) for text in texts]
    everything, place, found = distractors(words, (w for some in own for w in some), most), 0, []
    for text, rare in zip(texts, own, strict=True):
        said, others = set(text.split()), []
        while len(others) < min(count, len(everything) // 2):
            word = everything[place % len(everything)]
            place += 1
            if word not in said and word not in others:
                others.append(word)
        found.append((rare, others))
    return found


# -- hearing -----------------------------------------------------------------------------------------------


class Heard:
    """One of our decoders or another recogniser, on recordings heard one after the other."""

    def __init__(self, system: str, model: str | None):
        from asr.loading import load_recogniser

        kind, _, place = system.partition(":")
        self.decoder = kind if kind in OWN else None
        if not self.decoder and kind != "faster-whisper":
            raise ValueError(f"system {system!r}: choose {', '.join(OWN)} or faster-whisper:SIZE_OR_FOLDER")
        self.recogniser = load_recogniser((place or model) if self.decoder else (place or "tiny.en"), "cpu")

    def texts(self, wave: np.ndarray, names: list[tuple[str, ...]], strengths: list[float | None]) -> list[str]:
        """The text of a wave with each list of names and its strength."""
        from asr.recogniser import DecodeOptions

        chosen = [
            DecodeOptions(self.decoder, word_timestamps=False, hotwords=some, hotword_strength=strength)
            for some, strength in zip(names, strengths, strict=True)
        ]
        if not self.decoder:
            return [self.recogniser.transcribe_batch([wave], options)[0].text for options in chosen]
        heard = self.recogniser.listen([wave])  # once for all
        found = [self.recogniser.hypotheses(heard, self.decoder, options)[0][0].text for options in chosen]
        self.recogniser.decoders.clear()  # every recording has names of its own
        return found


def run(recordings: list, waves: Iterable[np.ndarray], arms: list[Arm], given: dict, words: Words, model) -> dict:
    """The texts of every arm, by its label, in the order of the recordings."""
    from tqdm import tqdm

    systems = {name: Heard(name, model) for name in dict.fromkeys(arm.system for arm in arms)}
    texts: dict[str, list[str]] = {arm.label: [] for arm in arms}
    for i, wave in enumerate(tqdm(waves, total=len(recordings), unit="file", file=sys.stderr)):
        for name, system in systems.items():
            own = [arm for arm in arms if arm.system == name]
            names = []
            for arm in own:
                rare, others = given[arm.distractors][i]
                expected = () if arm.strength == 0 else (*rare, *others)
                names.append(tuple(words.as_written(word) for word in expected))
            for arm, text in zip(own, system.texts(wave, names, [arm.strength for arm in own]), strict=True):
                texts[arm.label].append(text)
    return texts


# -- what is measured --------------------------------------------------------------------------------------


def judged(references: list[str], texts: list[str], given: list[tuple[list[str], list[str]]]) -> dict:
    """Rare words said and found, and distractors written that nobody said."""
    from asr.text.tokenizer import normalise_text

    said = found = invented = 0
    for reference, text, (rare, others) in zip(references, texts, given, strict=True):
        spoken, written = Counter(reference.split()), Counter(normalise_text(text).split())
        said += sum(spoken[word] for word in rare)
        found += sum(min(spoken[word], written[word]) for word in rare)
        invented += sum(written[word] for word in others)
    return {"said": said, "found": found, "invented": invented}


def summarise(references: list[str], texts: dict[str, list[str]], arms: list[Arm], given: dict) -> dict[str, dict]:
    from asr.score import normalised

    plain = {label: normalised(found) for label, found in texts.items()}
    without = [arm.label for arm in arms if arm.strength == 0]
    rates = error_rows(normalised(references), plain, without)
    for arm in arms:
        rates[arm.label] |= judged(references, texts[arm.label], given[arm.distractors])
    return rates


def shown(rates: dict[str, dict]) -> str:
    rows = [
        [label, f"{r['found']}/{r['said']}", f"{r['found'] / max(1, r['said']):.1%}", str(r["invented"]),
         f"{r['wer']:.2%}", span(r["interval"])]
        for label, r in rates.items()
    ]  # fmt: skip
    return table(("system, strength", "rare words found", "recall", "invented", "WER", "95 % interval"), rows)


@program
def main(argv: list[str] | None = None) -> int:
    parser = make_parser("hotwords", __doc__)
    option = parser.add_argument
    option("table", help="recordings with columns id, path, text")
    option("--text", nargs="+", required=True, metavar="FILE", help="text that says which words are rare (.xz too)")
    option("--systems", nargs="+", default=list(OWN), help="ar, beam, faster-whisper:FOLDER (default: ar beam)")
    option("--model", help="name, folder or Hub id for our decoders (default: the model that ships)")
    option("--strengths", nargs="+", type=float, default=[0, 1, 2, 3], help="nats a token (default: 0 1 2 3)")
    option("--distractors", nargs="+", type=int, default=[0, 100], help="words beside those said (default: 0 100)")
    option("--rare", type=int, default=20, help="how often a rare word occurs in the text at most (default: 20)")
    option("--limit", type=int, help="only so many recordings, spread over the table")
    option("--out", type=Path, help="folder for result.json and the texts")
    args = parser.parse_args(argv)
    from asr.text.tokenizer import normalise_text
    from recipes.data.corpora import read_sentences, read_table

    try:
        recordings = spread(read_table(args.table), args.limit)
        references = [normalise_text(recording.text) for recording in recordings]
        words = Words.of(sentence for path in args.text for sentence in read_sentences(path))
        arms = [arm for system in args.systems for arm in _arms(system, args.strengths, args.distractors)]
        given = {count: lists(references, words, args.rare, count) for count in {0, *args.distractors}}
        texts = run(recordings, (r.wave() for r in recordings), arms, given, words, args.model)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    rates = summarise(references, texts, arms, given)
    about = f"{len(recordings)} recordings of {Path(args.table).name}, rare: at most {args.rare} times in the text"
    if args.out:
        write_json(args.out / "result.json", {"about": about, "arms": rates})
        write_texts(args.out, [r.id for r in recordings], {k.replace(":", "_"): v for k, v in texts.items()})
    print(f"{about}\n\n{shown(rates)}")
    return 0


def _arms(system: str, strengths: list[float], counts: list[int]) -> list[Arm]:
    own: list[float | None] = list(strengths) if system.partition(":")[0] in OWN else [0, None]
    return [Arm(system, s, n) for n in counts for s in own if s != 0 or n == counts[0]]
