"""The text decoder in 8 bits, token by token on compiled loops (`kernels.text_step`): what writes on a CPU.

It gives what `TextDecoder` with the layers of `asr.hybrid.linear8` gives, up to the order in which numbers in single
precision are added, in less than half of the time; only the likeliest token is mostly sought among the frequent ones.
Loading the loops takes as long as some hundred tokens, so the first ones are left to that decoder, and so are whole
texts, which it judges at once.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from asr.ar.greedy import likeliest
from asr.dllm.caches import SpeechMemory, TextCache
from asr.hybrid.decoder import DecoderLayer, TextDecoder
from asr.hybrid.linear8 import Linear8
from kernels import text_step
from kernels.text_step import Layer, Norm, Product, Text

PAYS_AFTER = 200  # tokens: 0.6 s to load the loops, 3 ms less for a token
FREQUENT = 8192  # tokens, the first of a vocabulary, that greedy decoding looks at first where there are many more


class TextSoFar:
    """The texts that were written, as the loops remember them or, before these are loaded, as `TextDecoder` does.

    The first positions are a prompt, which lengths do not count.
    """

    def __init__(self, prompt: int, own: TextCache | None):
        self.prompt, self.own = prompt, own
        self.text: Text | None = None

    def crop(self, length: int) -> None:
        """Forget the positions from `length` on."""
        if self.own is not None:
            self.own.crop(length)
        elif self.text is not None:
            self.text.count = min(self.text.count, length + self.prompt)

    def rows(self, index: Tensor) -> None:
        """Keep only some utterances of the batch, or some several times."""
        if self.own is not None:
            self.own.rows(index)
        elif self.text is not None:
            self.text.rows(index.numpy())


class SteppingDecoder:
    """`TextDecoder` as what `asr.ar.greedy.Writes` asks for.

    Args:
        decoder: in 8 bits, on a CPU.
        pays_after: tokens that it writes itself before the loops take over.
        frequent: tokens, the first of the vocabulary, that `likeliest` looks at first; 0 or over half of it: at all.
    """

    def __init__(self, decoder: TextDecoder, pays_after: int = PAYS_AFTER, frequent: int = FREQUENT):
        self.decoder, self.most_tokens = decoder, decoder.most_tokens
        self.tokens = getattr(decoder, "tokens", None)  # its vocabulary, in a recogniser
        self.remember, self.denoise = decoder.remember, decoder.denoise
        self.left, self.frequent = pays_after, frequent
        self._weights: tuple[list[Layer], Norm, Product, Product | None] | None = None

    def eval(self) -> SteppingDecoder:
        self.decoder.eval()
        return self

    def new_cache(self) -> TextSoFar:
        return TextSoFar(self.decoder.sizes.prompt, self.decoder.new_cache() if self.left > 0 else None)

    def extend(self, tokens: Tensor, speech: SpeechMemory, cache: TextSoFar) -> Tensor:
        """Logits [batch, m, vocabulary] after m more tokens [batch, m]; the cache grows by them.

        Raises:
            ValueError: the text would be longer than the decoder takes.
        """
        if cache.own is not None:
            self.left -= tokens.numel()
            return self.decoder.extend(tokens, speech, cache.own)
        states = self._states(tokens, speech, cache)
        return torch.from_numpy(text_step.scores(states, *self.weights()[1:3])).view(*tokens.shape, -1)

    def likeliest(
        self, tokens: Tensor, speech: SpeechMemory, cache: TextSoFar, never: tuple[int, ...]
    ) -> tuple[Tensor, Tensor]:
        """The most probable token behind each of m more tokens [batch, m] and its probability, both [batch, m].

        Args:
            tokens, speech, cache: as `extend` takes them.
            never: tokens that no text has.

        Raises:
            ValueError: the text would be longer than the decoder takes.
        """
        if cache.own is not None:
            return likeliest(self.extend(tokens, speech, cache), never)
        _, norm, output, frequent = self.weights()
        found = text_step.likeliest(self._states(tokens, speech, cache), norm, output, np.array(never), frequent)
        return tuple(torch.from_numpy(part).view(tokens.shape) for part in found)

    def _states(self, tokens: Tensor, speech: SpeechMemory, cache: TextSoFar) -> np.ndarray:
        """Of the last layer behind each of more tokens [batch, m], one after the other [batch * m, width]."""
        layers = self.weights()[0]
        if cache.text is None:
            heads, width = self.decoder.sizes.heads, self.decoder.sizes.width
            cache.text = Text(len(layers), len(tokens), heads, width // heads)
        x = self.decoder.embedded(tokens, cache.text.count).numpy()
        keys, values = ([part.numpy() for part in parts] for parts in (speech.keys, speech.values))
        x = text_step.write(x, cache.text, keys, values, speech.frames.numpy(), layers)[:, -tokens.shape[1] :]
        return x.reshape(-1, x.shape[-1])

    def weights(self) -> tuple[list[Layer], Norm, Product, Product | None]:
        """Of the layers, the last norm, the output layer and its frequent tokens, as the loops take them."""
        if self._weights is None:
            decoder, embedding = self.decoder, self.decoder.embedding.weight.numpy()  # the output layer's weights, too
            layers = [layer_arrays(layer) for layer in decoder.layers]
            output, frequent = replace(product_arrays(decoder.output), weight=embedding), None
            if self.frequent and 2 * self.frequent <= len(embedding):
                first = product_arrays(decoder.output.first(self.frequent))
                frequent = replace(first, weight=embedding[: self.frequent])
            self._weights = layers, norm_arrays(decoder.norm), output, frequent
        return self._weights


def layer_arrays(layer: DecoderLayer) -> Layer:
    """What the loops need of a layer in 8 bits."""
    return Layer(
        norm_arrays(layer.text_norm),
        product_arrays(layer.text.all),
        product_arrays(layer.text.out),
        norm_arrays(layer.speech_norm),
        product_arrays(layer.speech.query),
        product_arrays(layer.speech.out),
        norm_arrays(layer.out_norm),
        product_arrays(layer.feed_forward[0]),
        product_arrays(layer.feed_forward[2]),
    )


def norm_arrays(norm: nn.LayerNorm) -> Norm:
    return Norm(*(part.detach().float().numpy() for part in (norm.weight, norm.bias)))


def product_arrays(linear: Linear8) -> Product:
    """Weights of a layer in 8 bits as arrays; the scales of an activation are part of those of the weights."""
    weight, _ = torch.ops.quantized.linear_unpack(linear.packed)
    scale = weight.q_per_channel_scales().float() * linear.step
    arrays = (part.numpy() for part in (weight.int_repr(), scale, linear.bias))
    return Product(*arrays, np.float32(1 / linear.step), linear)
