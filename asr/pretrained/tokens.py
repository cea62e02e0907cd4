"""The language model's vocabulary: prompt, text, special tokens of the canvas, drafts from the CTC branch."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from torch import Tensor

from asr.dllm.canvas import Draft, ctc_draft, draft_words
from asr.dllm.loop import SpecialTokens
from asr.pretrained.config import LanguagePart
from asr.text.tokenizer import Tokenizer

SPEECH = "<|the speech|>"  # stands for the speech while the chat template is filled in


@dataclass(frozen=True)
class Prompt:
    """Token ids before and after the speech."""

    before: list[int]
    after: list[int]

    @classmethod
    def of(cls, tokenizer, instruction: str) -> Prompt:
        """The instruction in the tokenizer's chat template; without one, plainly after the speech."""
        if tokenizer.chat_template:
            message = {"role": "user", "content": f"{SPEECH}\n{instruction}"}
            text = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
        else:
            text = f"{tokenizer.bos_token or tokenizer.cls_token or ''}{SPEECH}\n{instruction}\n"
        before, after = text.split(SPEECH)
        return cls(*(tokenizer(part, add_special_tokens=False).input_ids for part in (before, after)))


class TextTokens:
    """Token ids of the canvas.

    Args:
        tokenizer: a fast tokenizer of transformers.
        part: says which tokens are mask, end and empty slot.
        vocabulary: width of the model's logits, which may be more than the tokenizer has tokens.

    Raises:
        ValueError: a token that is needed is missing.
    """

    def __init__(self, tokenizer, part: LanguagePart, vocabulary: int):
        self.tokenizer = tokenizer
        end = part.end_token or tokenizer.eos_token or tokenizer.sep_token
        self.end = self._id(end, "end_token")
        self.mask = None if part.kind == "causal" else self._id(part.mask_token or tokenizer.mask_token, "mask_token")
        self.null = None if part.null_token is None else self._id(part.null_token, "null_token")
        beyond = range(len(tokenizer), vocabulary)
        self._continues = any(token.startswith("##") for token in tokenizer.get_vocab())
        self.never = {*tokenizer.all_special_ids, *beyond, self.mask} - {self.end, self.null, None}

    def _id(self, token: str | None, setting: str) -> int:
        number = None if token is None else self.tokenizer.get_vocab().get(token)
        if number is None:
            raise ValueError(f"{setting} {token!r} is not in the vocabulary: name one in language_model.{setting}")
        return number

    def special(self, slots: bool) -> SpecialTokens:
        """For `asr.dllm.loop`; without empty slots no position may become one.

        Raises:
            ValueError: slots without a token for them.
        """
        if slots and self.null is None:
            raise ValueError("slots=true needs a token for empty slots: train with language_model.null_token")
        unused = set() if slots or self.null is None else {self.null}
        return SpecialTokens(self.mask, self.end, self.null if slots else None, tuple(sorted(self.never | unused)))

    def encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def decode(self, ids: list[int]) -> str:
        return " ".join(self.tokenizer.decode(ids, skip_special_tokens=True).split())

    def starts_word(self, token: int) -> bool:
        return self.piece(token).startswith(" ")

    def piece(self, token: int) -> str:
        """The text of one token, a space before it where a word starts, whatever the kind of vocabulary."""
        raw = self.tokenizer.convert_ids_to_tokens(token) or ""
        if self._continues:  # WordPiece marks what does not start a word
            return raw.removeprefix("##") if raw.startswith("##") else f" {raw}"
        if raw.startswith("\u2581"):  # SentencePiece
            return raw.replace("\u2581", " ")
        return self.tokenizer.convert_tokens_to_string([raw]) if raw else ""

    def translate(self, draft: Draft, units: Tokenizer) -> Draft:
        """A draft in CTC units in the language model's tokens.

        The text is tokenised again; a token is as sure as the least sure unit of its word and stands at the word's
        first frame.
        """
        words = draft_words(draft, units)
        starts, length = [], 0
        for text, *_ in words:
            starts.append(length)
            length += len(text) + 1
        joined = " ".join(text for text, *_ in words)
        encoded = self.tokenizer(joined, add_special_tokens=False, return_offsets_mapping=True)
        # A token may begin with the space before its word, so its last character says which word it is in.
        owners = [words[bisect_right(starts, max(a, b - 1)) - 1] for a, b in encoded.offset_mapping]
        confidences, times = [sure for _, sure, _ in owners], [time for *_, time in owners]
        return Draft(list(encoded.input_ids), confidences, times, draft.frames)

    def draft(self, log_probabilities: Tensor, units: Tokenizer, blank_penalty: float = 0.0) -> Draft:
        """The greedy CTC hypothesis of log_probabilities [frames, units] in the language model's tokens."""
        return self.translate(ctc_draft(log_probabilities, blank_penalty), units)
