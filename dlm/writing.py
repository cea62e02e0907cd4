"""The writing model: reads the plain words of a text and tags each with its case and the mark behind it.

A bidirectional encoder (BERT's, from a pretrained one or from scratch) sees the words on both sides, and all tags come
out of one pass: nothing is written token by token, and no word can change. The case of a word depends on the mark
before it, so it is predicted for each mark that may stand there, and the marks are chosen first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.hub import HubModel
from dlm.tags import CASES, FULL_STOP, MARKS

SHIPPED = Path(__file__).parent / "weights" / "writing"
MOST_PIECES = 8  # of a word; what is longer is no word
POSITIONS = 512  # of a stretch: BERT knows no more
LAYERS = "encoder.encoder.layer."  # how names of the encoder's weights begin
LOOK = 128  # width of the layer that reads a word's case


class WordPieces:
    """Sub-word units of lower-case words, BERT's way; each word is encoded once.

    Args:
        pieces: all units in the order of their ids, continuations written "##ing", with [PAD], [UNK], [CLS] and [SEP].
    """

    def __init__(self, pieces: Sequence[str]):
        from tokenizers import Tokenizer
        from tokenizers.models import WordPiece
        from tokenizers.normalizers import BertNormalizer
        from tokenizers.pre_tokenizers import BertPreTokenizer

        self.pieces = list(pieces)
        ids = {piece: number for number, piece in enumerate(self.pieces)}
        backend = Tokenizer(WordPiece(ids, unk_token="[UNK]"))
        backend.normalizer, backend.pre_tokenizer = BertNormalizer(lowercase=True), BertPreTokenizer()
        self.padding, self.unknown, self.opening, self.closing = (ids[f"[{n}]"] for n in ("PAD", "UNK", "CLS", "SEP"))
        self._backend = backend
        self.word = lru_cache(maxsize=100_000)(self._word)

    def _word(self, word: str) -> tuple[int, ...]:
        """Ids of a word, at least one."""
        return tuple(self._backend.encode(word, add_special_tokens=False).ids[:MOST_PIECES]) or (self.unknown,)

    def __len__(self) -> int:
        return len(self.pieces)

    def __getstate__(self):
        return self.pieces

    def __setstate__(self, pieces):
        self.__init__(pieces)


class WritingModel(nn.Module, HubModel):
    """Plain words in, tags out.

    Args:
        encoder: fields of `transformers.BertConfig`.
        pieces: units of `WordPieces`, one a line.
        forms: see `dlm.tags.written`.
        options: fields of `dlm.restorer.RestorerOptions` tuned for this model.
    """

    def __init__(self, encoder: dict, pieces: str, forms: dict[str, str] | None = None, options: dict | None = None):
        from transformers import BertConfig, BertModel

        super().__init__()
        self.sizes = dict(encoder)
        self.pieces, self.forms, self.options = WordPieces(pieces.split("\n")), forms or {}, options or {}
        # Explicit attention: faster than the fused kernel on CPUs at these lengths.
        config = BertConfig(**{**encoder, "vocab_size": len(self.pieces), "attn_implementation": "eager"})
        self.encoder = BertModel(config, add_pooling_layer=False)
        self.mark = nn.Linear(config.hidden_size, len(MARKS))
        self.look, self.before = nn.Linear(config.hidden_size, LOOK), nn.Embedding(len(MARKS), LOOK)
        self.case = nn.Linear(LOOK, len(CASES))

    @classmethod
    def from_pretrained(cls, name: str | Path | None = None, **kwargs) -> WritingModel:
        """Load from a folder or a Hub id; None is the model that ships in the package.

        Raises:
            OSError: there is no such model.
        """
        if name is None and not SHIPPED.is_dir():
            raise OSError(f"no writing model in {SHIPPED}: train one (experiment=writing) and name it")
        return super().from_pretrained(name or SHIPPED, **kwargs)

    @classmethod
    def from_bert(cls, folder: str | Path, pieces: Sequence[str], forms: dict[str, str] | None = None) -> WritingModel:
        """A model that starts from the encoder of a BERT in a folder, its embeddings cut to `pieces`.

        Raises:
            OSError: there is no BERT there.
        """
        from transformers import BertModel

        bert = BertModel.from_pretrained(folder, add_pooling_layer=False)
        known = {piece: number for number, piece in enumerate(bert_pieces(folder))}
        weights = bert.state_dict()
        kept = torch.tensor([known[piece] for piece in pieces])
        weights["embeddings.word_embeddings.weight"] = weights["embeddings.word_embeddings.weight"][kept]
        sizes = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers")
        fields = {name: getattr(bert.config, name) for name in (*sizes, "max_position_embeddings", "layer_norm_eps")}
        fields |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        model = cls(fields, "\n".join(pieces), forms)
        model.encoder.load_state_dict(weights)
        return model

    def with_layers(self, layers: Sequence[int]) -> WritingModel:
        """A model with these layers of its encoder, by number; where one is named twice, a deeper one.

        Raises:
            ValueError: there is no such layer.
        """
        count = len(self.encoder.encoder.layer)
        if not layers or not all(0 <= number < count for number in layers):
            raise ValueError(f"layers {list(layers)}: the encoder has {count}, numbered from 0")
        pieces = "\n".join(self.pieces.pieces)
        model = WritingModel({**self.sizes, "num_hidden_layers": len(layers)}, pieces, self.forms, self.options)
        own = self.state_dict()
        for name, value in model.state_dict().items():
            if name.startswith(LAYERS):
                number, rest = name.removeprefix(LAYERS).split(".", 1)
                name = f"{LAYERS}{layers[int(number)]}.{rest}"
            value.copy_(own[name])
        return model

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the mark behind each word [words, marks] and of its case [words, marks, cases].

        The second axis of the latter is the mark before the word.

        Args:
            batch: `tokens` [rows, positions] padded with 0, `first` [words] the place of each word's first piece in
                the flattened tokens, row after row.
        """
        tokens = batch["tokens"]
        mask = tokens != self.pieces.padding
        hidden = self.encoder(tokens, attention_mask=mask).last_hidden_state.flatten(0, 1)[batch["first"]]
        look = self.look(hidden)[:, None] + self.before.weight
        return self.mark(hidden).float().log_softmax(-1), self.case(F.gelu(look)).float().log_softmax(-1)

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy of both tags a word, and each of them.

        Args:
            batch: as in `forward`, and `marks`, `cases`, `before` [words], the last being the mark before each word.
        """
        marks, cases = self(batch)
        cases = cases.gather(1, batch["before"][:, None, None].expand(-1, 1, cases.shape[2]))[:, 0]
        losses = F.nll_loss(marks, batch["marks"]), F.nll_loss(cases, batch["cases"])
        return sum(losses), {"mark_loss": float(losses[0].detach()), "case_loss": float(losses[1].detach())}


def collate(pieces: WordPieces, rows: Sequence[Sequence[str]], ends: Sequence[tuple[bool, bool]]) -> dict[str, Tensor]:
    """`tokens` and `first` of stretches of words; see `WritingModel.forward`.

    Args:
        rows: plain words of each stretch.
        ends: whether its first word opens a text and its last one closes it.
    """
    encoded, places = [], []
    for words, (opens, closes) in zip(rows, ends, strict=True):
        tokens, first = [pieces.opening] if opens else [], []
        units = [pieces.word(word) for word in words]
        # Gibberish in many pieces must not be longer than the encoder can read.
        most = MOST_PIECES if sum(map(len, units)) <= POSITIONS - 2 else max(1, (POSITIONS - 2) // len(words))
        for unit in units:
            first.append(len(tokens))
            tokens += unit[:most]
        encoded.append(torch.tensor(tokens + [pieces.closing] * closes))
        places.append(first)
    tokens = nn.utils.rnn.pad_sequence(encoded, batch_first=True, padding_value=pieces.padding)
    first = [row * tokens.shape[1] + place for row, found in enumerate(places) for place in found]
    return {"tokens": tokens, "first": torch.tensor(first)}


def mark_before(marks: list[int], opens: bool, before: int = 0) -> list[int]:
    """The mark before each word; before the first one that opens a text stands a full stop."""
    return [FULL_STOP if opens else before, *marks[:-1]]


def bert_pieces(folder: str | Path) -> list[str]:
    """The units of a BERT in a folder by their ids."""
    content = json.loads((Path(folder) / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    return sorted(vocabulary, key=vocabulary.get)
