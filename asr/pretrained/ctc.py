"""Any CTC model of transformers (wav2vec2, HuBERT, WavLM, Parakeet-CTC ...) as a recogniser."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr.parts import Encoded
from asr.recogniser import SpeechRecogniser
from asr.text.tokenizer import WORD_MARK

FRAME_COUNTS = "_get_feat_extract_output_lengths"  # what transformers calls frames of so many samples
SHORTEST = 0.1  # seconds that a model is given; wav2vec2 has no frame for less than 0.025


class CTCEncoder:
    """The model with its head: architectures differ in what is between, so the frames are the head's logits."""

    def __init__(self, name: str | Path, device: str):
        from transformers import AutoFeatureExtractor, AutoModelForCTC

        self.extractor = AutoFeatureExtractor.from_pretrained(name)
        self.model = AutoModelForCTC.from_pretrained(name).to(device).eval()
        self.sampling_rate = self.extractor.sampling_rate
        # Models without a mask hear the padding of a batch. A CPU gains nothing from batches.
        masks = getattr(self.extractor, "return_attention_mask", False)
        self.one_by_one = torch.device(device).type == "cpu" or not masks or not hasattr(self.model, FRAME_COUNTS)

    def __call__(self, waves: list[np.ndarray]) -> Encoded:
        waves = [np.pad(wave, (0, max(0, round(SHORTEST * self.sampling_rate) - len(wave)))) for wave in waves]
        if self.one_by_one:
            rows = [self._hear([wave])[0][0] for wave in waves]
            return Encoded(pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows]))
        logits, heard = self._hear(waves)
        return Encoded(logits, getattr(self.model, FRAME_COUNTS)(heard).cpu())

    def _hear(self, waves: list[np.ndarray]) -> tuple[Tensor, Tensor | None]:
        """Logits [batch, frames, vocabulary], and how much of each row of the model's input is no padding."""
        inputs = self.extractor(waves, sampling_rate=self.sampling_rate, return_tensors="pt", padding=True)
        logits = self.model(**inputs.to(self.model.device)).logits
        return logits, inputs["attention_mask"].sum(-1) if "attention_mask" in inputs else None


class LogitsBranch:
    """Log-probabilities of logits, the blank brought to index 0."""

    def __init__(self, encoder: CTCEncoder, tokenizer):
        config = encoder.model.config
        self.hop_seconds = getattr(config, "inputs_to_logits_ratio", 0) / encoder.sampling_rate or None
        self.order = [config.pad_token_id, *(i for i in range(config.vocab_size) if i != config.pad_token_id)]
        self.tokenizer = PieceTokenizer(tokenizer, self.order)

    def __call__(self, encoded: Encoded) -> tuple[Tensor, Tensor]:
        return encoded.hidden.float().log_softmax(-1)[..., self.order], encoded.lengths


class PieceTokenizer:
    """The vocabulary of a transformers tokenizer, the blank first, as pieces with word marks."""

    blank_id = 0

    def __init__(self, tokenizer, order: list[int]):
        special = {*tokenizer.all_special_ids, order[self.blank_id]}
        delimiter = getattr(tokenizer, "word_delimiter_token", None)  # of wav2vec2 and its kin
        pieces = [tokenizer.convert_ids_to_tokens(i) or "" for i in order]
        self.pieces = [
            WORD_MARK if piece == delimiter else "" if i in special else piece
            for i, piece in zip(order, pieces, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.pieces)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids; special tokens are skipped."""
        return " ".join("".join(self.pieces[i] for i in ids).replace(WORD_MARK, " ").split())

    def starts_word(self, token: int) -> bool:
        return self.pieces[token].startswith(WORD_MARK)


def ctc_recogniser(name: str | Path, device: str = "cpu") -> SpeechRecogniser:
    """A recogniser around a CTC model of a folder or the Hub; it has no text decoder."""
    from transformers import AutoTokenizer

    encoder = CTCEncoder(name, device)
    return SpeechRecogniser(encoder, LogitsBranch(encoder, AutoTokenizer.from_pretrained(name)))
