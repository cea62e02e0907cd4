"""The hybrid recogniser's denoiser: its autoregressive decoder, kept as it is, with bidirectional layers on top.

dLLM-ASR (arXiv 2601.17902) denoises a draft in a few parallel passes with a language model that was pretrained. At
our size the pretrained language model is Whisper's decoder, and fine-tuning it to look both ways forgets more than an
hour of training teaches. So it stays causal: it reads the text on the canvas, all at once, and says at every point
what comes next, as it always did. A few layers on top see a slot's time, the sound there, what stands on it and what
stands around it on both sides. They start at zero: before training a slot says what the decoder says.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asr.ctc.encoder import rotate
from asr.dllm.caches import SpeechMemory, TextCache
from asr.dllm.network import at_frames, rotary
from asr.hybrid.decoder import DecoderSizes, TextDecoder
from asr.hybrid.encoder import Attention, attend
from asr.parts import Listened
from asr.text.tokenizer import Tokenizer

EMPTY, MASK, START = Tokenizer.null_id, Tokenizer.mask_id, Tokenizer.null_id  # the decoder's start is never on a slot
RARELY = 10.0  # logit of an empty slot before training: about as high as a likely token's
ROTARY_BASE = 1000.0  # slots are few


@dataclass
class SlotSizes:
    """Sizes of what stands on the decoder.

    Args:
        layers: bidirectional layers.
        span: encoder frames on each side of a slot's time that are its sound.
        focus: encoder frames over which a slot's attention to the speech spreads in time at first (a standard
            deviation, learned for each head); None attends as the decoder does, wherever it wants.
        dropout: while training.
    """

    layers: int = 2
    span: int = 6
    focus: float | None = 25.0
    dropout: float = 0.1


class SlotLayer(nn.Module):
    """Self-attention over the slots, cross-attention to the speech around a slot's time, feed-forward."""

    def __init__(self, width: int, heads: int, feed_forward: int, focus: float | None, dropout: float):
        super().__init__()
        self.slot_norm, self.speech_norm, self.out_norm = (nn.LayerNorm(width) for _ in range(3))
        self.slots, self.speech = Attention(width, heads), Attention(width, heads)
        self.feed_forward = nn.Sequential(nn.Linear(width, feed_forward), nn.GELU(), nn.Linear(feed_forward, width))
        self.spread = nn.Parameter(torch.full((heads, 1, 1), focus).log()) if focus else None
        self.dropout = nn.Dropout(dropout)
        for last in (self.slots.out, self.speech.out, self.feed_forward[2]):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def read(
        self, x: Tensor, angles: tuple[Tensor, Tensor], valid: Tensor | None, number: int, cache: SlotCache
    ) -> Tensor:
        """Attention of the computed slots x [batch, m, width] to all slots; `angles` (`rotary`) of their places."""
        y = self.slot_norm(x)
        query = rotate(self.slots.split(self.slots.query(y)), angles)
        key, value = self.slots.keys_values(y)
        key, value = cache.update(number, cache.active, rotate(key, angles), value)
        y = attend(query, key, value, valid)
        return x + self.dropout(self.slots.out(y.transpose(1, 2).flatten(2)))

    def listen(self, x: Tensor, keys: Tensor, values: Tensor, heard: Tensor | None, away: Tensor) -> Tensor:
        """Attention to the speech and feed-forward.

        Args:
            x: [batch, m, width].
            keys, values: of the speech [batch, heads, frames, size].
            heard: [batch, 1, 1, frames], False behind an utterance's end, or None.
            away: [batch, 1, m, frames] squared distance in time.
        """
        query = self.speech.split(self.speech.query(self.speech_norm(x)))
        scores = (query @ keys.transpose(-1, -2)).float() * query.shape[-1] ** -0.5
        if self.spread is not None:
            scores = scores - away / (2 * (2 * self.spread.float()).exp())
        if heard is not None:
            scores = scores.masked_fill(~heard, -torch.inf)
        y = scores.softmax(-1).to(values.dtype) @ values
        x = x + self.dropout(self.speech.out(y.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.feed_forward(self.out_norm(x)))


class SlotLayers(nn.Module):
    """What stands on the decoder: the weights that are trained.

    Args:
        sizes: of these layers.
        decoder: sizes of what they stand on.
    """

    def __init__(self, sizes: SlotSizes, decoder: DecoderSizes):
        super().__init__()
        self.sizes, width = sizes, decoder.width
        self.head_size = width // decoder.heads
        self.layers = nn.ModuleList(
            SlotLayer(width, decoder.heads, decoder.feed_forward, sizes.focus, sizes.dropout)
            for _ in range(sizes.layers)
        )
        self.stands, self.follows, self.sounds = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.sure = nn.Linear(2, width, bias=False)
        self.norm, self.empty = nn.LayerNorm(width), nn.Linear(width, 1)
        for part in (self.stands, self.follows, self.sounds, self.sure, self.empty):
            nn.init.zeros_(part.weight)
        nn.init.constant_(self.empty.bias, RARELY)

    def start_from(self, decoder: TextDecoder) -> None:
        """Take from the decoder's last layers where to listen, and its last norm."""
        self.norm.load_state_dict(decoder.norm.state_dict())
        for layer, source in zip(reversed(self.layers), reversed(decoder.layers), strict=False):
            layer.speech_norm.load_state_dict(source.speech_norm.state_dict())
            for name in ("query", "key", "value"):
                getattr(layer.speech, name).load_state_dict(getattr(source.speech, name).state_dict())

    @property
    def dtype(self) -> torch.dtype:
        """In which the layers compute; norm and logits may be finer."""
        return self.layers[0].out_norm.weight.dtype


class SlotCache(TextCache):
    """What a canvas has computed: keys and values of its slots, and the decoder's states of its text."""

    def __init__(self, decoder: TextCache):
        super().__init__()
        self.active: Tensor | None = None
        self.text: Tensor | None = None  # [batch, tokens + 1] as the decoder has read it
        self.said: Tensor | None = None  # its states
        self.decoder = decoder

    def rows(self, index: Tensor) -> None:
        super().rows(index)
        self.decoder.rows(index)
        if self.text is not None:
            self.text, self.said = self.text[index], self.said[index]


@dataclass
class SlotSpeech:
    """The speech cache: sums of encoder output, the decoder's keys and values, and those of the layers on top."""

    sums: Tensor  # [batch, frames + 1, width] of the frames before each
    memory: SpeechMemory
    pairs: list[tuple[Tensor, Tensor]]

    def rows(self, index: Tensor) -> SlotSpeech:
        """Those of some utterances of the batch."""
        pairs = [(keys[index], values[index]) for keys, values in self.pairs]
        return SlotSpeech(self.sums[index], self.memory.rows(index), pairs)

    def around(self, times: Tensor, span: int) -> Tensor:
        """Mean [batch, m, width] of the frames up to `span` before and behind each time [batch, m]."""
        end = self.memory.frames[:, None] - 1
        first = (times.round().long() - span).clamp(min=0).minimum(end)
        last = (times.round().long() + span).clamp(min=0).minimum(end) + 1
        return (at_frames(self.sums, last) - at_frames(self.sums, first)) / (last - first).unsqueeze(-1)


class SlotDenoiser:
    """Decoder and slot layers as what `asr.dllm.decoder.DenoisingDecoder` asks for.

    Args:
        decoder: the recogniser's.
        top: the slot layers.
        step: encoder frames to a frame of the draft, in which times are given.
        tokens: vocabulary of the decoder.
        decode: choices of decoding that were made on held-out data.
    """

    def __init__(self, decoder: TextDecoder, top: SlotLayers, step: int, tokens=None, decode: dict | None = None):
        self.decoder, self.top, self.step = decoder, top, step
        self.tokens, self.decode = tokens, {"layout": "time", **(decode or {})}

    def new_cache(self) -> SlotCache:
        return SlotCache(self.decoder.new_cache())

    def eval(self) -> SlotDenoiser:
        self.decoder.eval()
        self.top.eval()
        return self

    def hear(self, heard: Listened, cached: bool = True) -> SlotSpeech:
        """What every pass needs of a batch of encoder output."""
        return self.remember(heard.hidden, heard.lengths)

    def remember(self, hidden: Tensor, lengths: Tensor) -> SlotSpeech:
        """The same of encoder output [batch, frames, width] with lengths [batch]."""
        own = hidden.to(self.top.dtype)
        pairs = [layer.speech.keys_values(own) for layer in self.top.layers]
        sums = nn.functional.pad(hidden.float().cumsum(1), (0, 0, 1, 0))
        return SlotSpeech(sums, self.decoder.remember(hidden, lengths), pairs)

    def denoise(
        self,
        canvas: Tensor,
        speech: SlotSpeech,
        times: Tensor | None = None,
        valid: Tensor | None = None,
        active: Tensor | None = None,
        cache: SlotCache | None = None,
        guesses: Tensor | None = None,
        sure: Tensor | None = None,
    ) -> Tensor:
        """Logits [batch, slots or m, vocabulary].

        Args:
            canvas: [batch, slots] tokens, masks where a slot is open.
            speech: of `hear`.
            times: [batch, slots] in frames of the draft; None: spread evenly over the speech.
            valid: [batch, slots], False where a row is padded.
            active: [batch, m] slots to compute; the others stand in `cache` as they were computed last.
            cache: updated in place.
            guesses: [batch, slots] what stands on each slot, EMPTY where nothing does; None: the canvas, masks empty.
            sure: [batch, slots] how probable that is.
        """
        shown = torch.where(canvas == MASK, EMPTY, canvas) if guesses is None else guesses
        if times is None:
            places = torch.arange(1, canvas.shape[1] + 1, device=canvas.device) / (canvas.shape[1] + 1)
            times = places * speech.memory.frames[:, None] / self.step
        sure = torch.zeros_like(times) if sure is None else sure
        cache = cache or self.new_cache()
        cache.active = active
        x = self._begin(shown, times * self.step, sure, speech, cache)
        places = torch.arange(canvas.shape[1], device=x.device)
        if active is not None:
            places, times = active, times.gather(1, active)
        angles = rotary(places, self.top.head_size, ROTARY_BASE)
        frames = torch.arange(speech.sums.shape[1] - 1, device=x.device)
        away = (times.unsqueeze(-1) * self.step - frames).square().unsqueeze(1)
        mask = None if valid is None else valid[:, None, None, :]
        for number, (layer, (keys, values)) in enumerate(zip(self.top.layers, speech.pairs, strict=True)):
            x = layer.read(x, angles, mask, number, cache)
            x = layer.listen(x, keys, values, speech.memory.valid, away)
        return self.logits(x)

    def logits(self, x: Tensor) -> Tensor:
        """Last states [batch, m, width] -> logits [batch, m, vocabulary]."""
        x = self.top.norm(x.to(self.top.norm.weight.dtype))
        logits = self.decoder.output(x)
        logits[..., EMPTY] = self.top.empty(x).squeeze(-1).to(logits.dtype)
        return logits

    def _begin(self, shown: Tensor, times: Tensor, sure: Tensor, speech: SlotSpeech, cache: SlotCache) -> Tensor:
        """What each computed slot starts from [batch, m, width]."""
        is_token = shown != EMPTY
        before = is_token.cumsum(1) - is_token.int()
        said = self._read(shown, is_token, before, speech, cache)
        embedded = self.decoder.embedding(shown).to(self.top.dtype)
        follows = next_token(is_token)
        places = cache.active
        if places is None:
            places = torch.arange(shown.shape[1], device=shown.device).expand_as(shown)
        after = follows.gather(1, places)
        following = at_frames(embedded, after) * (after < shown.shape[1]).unsqueeze(-1)
        own = is_token.gather(1, places)
        sure = sure.gather(1, places)
        trust = torch.stack((sure * own, sure * ~own), -1).to(self.top.dtype)
        sound = speech.around(times.gather(1, places), self.top.sizes.span).to(self.top.dtype)
        text = at_frames(said, before.gather(1, places))
        x = text.to(self.top.dtype) + self.top.stands(at_frames(embedded, places))
        return x + self.top.follows(following) + self.top.sounds(sound) + self.top.sure(trust)

    def _read(
        self, shown: Tensor, is_token: Tensor, before: Tensor, speech: SlotSpeech, cache: SlotCache
    ) -> Tensor:
        """The decoder's states [batch, tokens + 1, width] of the text on the canvas; nothing is read twice."""
        count = int(is_token.sum(1).max())
        text = shown.new_full((len(shown), count + 1), Tokenizer.end_id)
        text[:, 0] = START
        text.scatter_(1, torch.where(is_token, before + 1, 0), torch.where(is_token, shown, START))
        text = text[:, : self.decoder.most_tokens + 1]
        if cache.text is None:
            cache.said = self.decoder.states(text, speech.memory, cache.decoder)
        else:
            width = min(text.shape[1], cache.text.shape[1])
            same = (text[:, :width] == cache.text[:, :width]).all(0)
            kept = int(same.int().cumprod(0).sum())
            cache.decoder.crop(kept)
            cache.said = cache.said[:, :kept]
            if kept < text.shape[1]:
                more = self.decoder.states(text[:, kept:], speech.memory, cache.decoder)
                cache.said = torch.cat((cache.said, more), 1)
        cache.text = text
        return cache.said


def next_token(is_token: Tensor) -> Tensor:
    """[batch, n] place of the first token behind each slot, n where there is none."""
    count = is_token.shape[1]
    number = torch.arange(count, device=is_token.device).expand_as(is_token)
    here = torch.where(is_token, number, count)
    here = here.flip(1).cummin(1).values.flip(1)
    return torch.cat((here[:, 1:], here.new_full((len(here), 1), count)), 1)
