"""Training the writing model: case and punctuation of plain words, from written text alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from asr.audio.augment import seeded
from dlm.confusions import ConfusionChannel
from dlm.restorer import Restorer, plain_words
from dlm.tags import ENDS, FULL_STOP, Tagged, tagged, written_forms
from dlm.writing import WordPieces, WritingModel, bert_pieces, collate, mark_before
from recipes.data.batching import Batch
from recipes.data.corpora import read_sentences
from recipes.data.tagged_lines import TaggedLines
from recipes.evaluation.written import writing
from recipes.tasks.correction import read_pairs
from recipes.training.optimisation import freeze

FORMS_FROM = 200_000  # sentences that written forms and units are counted in


@dataclass
class WrittenText:
    """Written sentences in reading order, one a line (.xz is read too), and their share of the training text."""

    path: str
    share: float = 1.0


@dataclass
class Mishearing:
    """What happens to the words of some stretches, as recognisers lose, misspell, double and confuse them.

    Args:
        pairs: folder of hypotheses that misspellings are learned from (`dlm.confusions`); None spells at random.
        share: of stretches that this happens to.
        rate: range of the share of their words.
    """

    pairs: str | None = None
    share: float = 0.5
    rate: tuple[float, float] = (0.0, 0.3)

    def __post_init__(self):
        rows = read_pairs(self.pairs) if self.pairs else []
        self.channel = ConfusionChannel.estimate((found[0], text) for text, found in rows) if rows else None

    def __call__(self, text: Tagged, rng: np.random.Generator) -> Tagged:
        """The text as it might be heard; a mark whose word is lost moves to the word before."""
        if rng.random() >= self.share:
            return text
        rate = rng.uniform(*self.rate)
        hit, kinds = rng.random(len(text.words)) < rate, rng.random(len(text.words))
        result = Tagged([], [], [])
        for i, (word, mark, case) in enumerate(zip(text.words, text.marks, text.cases, strict=True)):
            heard = [word]
            if hit[i] and kinds[i] < 0.2:
                heard = []
                if result.words and mark:
                    result.marks[-1] = mark if mark in ENDS else result.marks[-1] or mark
            elif hit[i] and kinds[i] < 0.8:
                heard = self._misspelt(word, rng).split() or [word]
            elif hit[i]:
                heard = [text.words[int(rng.integers(len(text.words)))]]
            for number, part in enumerate(heard):
                result.words.append(part)
                result.marks.append(mark if number == len(heard) - 1 else 0)
                result.cases.append(case if number == 0 else 0)
        return result if result.words else text

    def _misspelt(self, word: str, rng: np.random.Generator) -> str:
        if self.channel is not None:
            return self.channel.corrupt(word, float(rng.uniform(1, 6)), rng)
        place, letter = int(rng.integers(len(word))), "abcdefghijklmnopqrstuvwxyz"[int(rng.integers(26))]
        return word[:place] + ("", letter, letter + word[place])[int(rng.integers(3))] + word[place + 1 :]


@dataclass
class WritingData:
    """Sources of written text and how stretches are cut from them.

    Args:
        texts: sources.
        validation: written sentences in reading order, of books that are no source.
        lengths: words of a stretch; each batch draws one of them.
        batch_words: words in a batch.
        epoch_batches: batches in what the engine calls an epoch.
        mishearing: what happens to the words.
        validation_words: use only so many, from the start.
        processes: tag the text before training starts.
    """

    texts: list[WrittenText]
    validation: str
    lengths: tuple[int, ...] = (20, 60, 120, 120)
    batch_words: int = 2000
    epoch_batches: int = 500
    mishearing: Mishearing = field(default_factory=Mishearing)
    validation_words: int = 20_000
    processes: int = 1

    def __post_init__(self):
        texts = [read_sentences(text.path) for text in self.texts]
        every = max(1, sum(map(len, texts)) // FORMS_FROM)
        self.sample = [sentence for text in texts for sentence in text[::every]]
        self.lines = [TaggedLines.of(text, self.processes) for text in texts]

    def plan(self, seed: int, epoch: int) -> list[Batch]:
        """Batches of (source, first sentence) pairs; the length of their stretches is drawn again while loading."""
        rng, batches = seeded(seed, epoch), []
        shares = np.array([text.share for text in self.texts]) / sum(text.share for text in self.texts)
        counts = np.array([len(lines) for lines in self.lines])
        for number in range(self.epoch_batches):
            length = int(rng.choice(self.lengths))
            sources = rng.choice(len(shares), size=max(1, self.batch_words // length), p=shares)
            items = zip(sources.tolist(), rng.integers(counts[sources]).tolist(), strict=True)
            batches.append(Batch(tuple(items), (seed, epoch, number)))
        return batches

    def stretch(self, source: int, line: int, words: int, rng: np.random.Generator) -> tuple[Tagged, bool, bool, int]:
        """About `words` words from a sentence on: their tags, whether they open and close a text, the mark before.

        Half of the stretches begin with a sentence, the others inside one; half end with one where they can.
        """
        lines, skipped = self.lines[source], 0
        first, following = map(int, lines.starts[line : line + 2])
        if rng.random() >= 0.5 and following - first > 1:
            skipped = int(rng.integers(1, following - first))
        first += skipped
        text = lines[first : first + words]
        ends = [i + 1 for i in range(words // 3, len(text.words)) if text.marks[i] in ENDS]
        closes = bool(ends) and rng.random() < 0.5
        if closes:
            text = Tagged(*(column[: ends[-1]] for column in vars(text).values()))
        return text, not skipped, closes, int(lines.marks[first - 1]) if skipped else FULL_STOP


@dataclass
class WritingStart:
    """Where training starts.

    Args:
        bert: folder of a BERT whose encoder and units are taken; None starts from scratch with its sizes below.
        pieces: units kept at most, the most frequent of the text and all single characters.
        sizes: fields of `transformers.BertConfig`, without `bert`.
        units: without `bert`: the tokenizer.json of a BERT, or a folder with one, whose units are cut.
    """

    bert: str | None = None
    pieces: int = 16_000
    sizes: dict | None = None
    units: str | None = None

    def model(self, sentences: list[str]) -> WritingModel:
        folder = self.bert or self.units
        forms = written_forms(sentences, least=3)
        pieces = frequent_pieces(bert_pieces(folder), sentences, self.pieces)
        if self.bert:
            return WritingModel.from_bert(self.bert, pieces, forms)
        return WritingModel(self.sizes, "\n".join(pieces), forms)


def frequent_pieces(pieces: list[str], sentences: list[str], most: int) -> list[str]:
    """The special units, single characters, and the most frequent others of the text, in their order."""
    units = WordPieces(pieces)
    words: Counter = Counter()
    for sentence in sentences:
        words.update(tagged(sentence).words)
    counts: Counter = Counter()
    for word, count in words.items():
        for number in units.word(word):
            counts[number] += count
    special = {units.padding, units.unknown, units.opening, units.closing}
    letters = {i for i, piece in enumerate(pieces) if len(piece.removeprefix("##")) == 1 and piece.isascii()}
    kept = special | letters
    for number, _ in counts.most_common():
        if len(kept) >= most:
            break
        kept.add(number)
    return [pieces[i] for i in sorted(kept)]


class WritingTask:
    """Task for `recipes.training.engine.Trainer`: cross-entropy of the tags of plain words.

    Args:
        start: weights and units to start from, or a model folder of ours to go on from.
        data: text and batching.
        rates: shares of the learning rate by part.
        frozen: parts that are not trained.
        layers: of the encoder that training starts from, by number; one that is named twice begins as two alike.
        dropout: of hidden states and attention.
        seed: seed of data order, noise and initial weights.
    """

    def __init__(
        self,
        start: WritingStart | str,
        data: WritingData,
        rates: dict[str, float] | None = None,
        frozen: list[str] | None = None,
        layers: list[int] | None = None,
        dropout: float = 0.0,
        seed: int = 0,
    ):
        torch.manual_seed(seed)
        self.data, self.seed, self.rates = data, seed, rates or {}
        if isinstance(start, str):
            self.model = WritingModel.from_pretrained(start)
        else:
            self.model = start.model(data.sample)
        if layers:
            self.model = self.model.with_layers(list(layers))
        for module in self.model.encoder.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout
        if torch.cuda.is_available():
            self.model.encoder.set_attn_implementation("sdpa")  # explicit attention, faster on a CPU, is slower there
        freeze(self.model, frozen)

    def train_batches(self, epoch: int, rank: int, world: int) -> list[Batch]:
        plans = self.data.plan(self.seed, epoch)
        return plans[rank : len(plans) // world * world : world]

    def load(self, plan: Batch) -> dict[str, Tensor]:
        """Tokens and tags of a planned batch; see `WritingModel.loss`."""
        rng = seeded(*plan.seed)
        words = self.data.batch_words // len(plan.items)
        rows, ends, tags = [], [], {"marks": [], "cases": [], "before": []}
        for source, line in plan.items:
            text, opens, closes, before = self.data.stretch(source, line, words, rng)
            if not text.words:
                continue
            text = self.data.mishearing(text, rng)
            rows.append(text.words)
            ends.append((opens, closes))
            tags["marks"] += text.marks
            tags["cases"] += text.cases
            tags["before"] += mark_before(text.marks, opens, before)
        batch = collate(self.model.pieces, rows, ends)
        return batch | {name: torch.tensor(values) for name, values in tags.items()}

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        return model.loss(batch)

    def validate(self, model: WritingModel) -> dict[str, float]:
        """F1 of sentence ends, commas, question marks and capitals of the plain words, as one running text."""
        sentences, count = [], 0
        for sentence in read_sentences(self.data.validation):
            sentences.append(sentence)
            count += len(sentence.split())
            if count >= self.data.validation_words:
                break
        restored = Restorer(model).write([" ".join(plain_words(sentence)) for sentence in sentences])
        f1 = (writing(sentences, restored) or {"f1": {}})["f1"]
        names = {"ends": "ends", ",": "commas", "?": "questions", "capitals": "capitals"}
        return {name: f1[key] for key, name in names.items() if f1.get(key) is not None}

    def export(self, model: WritingModel, folder: Path) -> None:
        model.save_eight_bits(folder)


